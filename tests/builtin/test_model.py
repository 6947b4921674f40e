"""The built-in model: what is shipped, and the script that makes it."""

import random
import re
from pathlib import Path

import pytest
import torch
from builtin_text import SKILLS, draw_text
from builtin_tokenizer import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from make_builtin_model import encode, make_config, make_model, pretrain
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from seekr.builtin import TASKS, builtin_model, builtin_rows


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(builtin_model())


def test_shipped_model_loads_with_plain_transformers_and_is_small(tokenizer: PreTrainedTokenizerFast) -> None:
    model, notes = AutoModelForCausalLM.from_pretrained(builtin_model(), output_loading_info=True)
    assert not notes["missing_keys"]
    assert not notes["unexpected_keys"]
    assert model.num_parameters() <= 1_200_000
    assert sum(file.stat().st_size for file in builtin_model().iterdir()) <= 6_000_000
    assert len(tokenizer) == model.config.vocab_size <= 512
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert None not in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.model_max_length == model.config.max_position_embeddings


def test_shipped_model_knows_its_skills_and_not_the_tasks(tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(builtin_model()).eval()
    rng = random.Random("never drawn in pre-training")
    batch = encode(tokenizer, [draw_text(rng) for _ in range(200)])
    with torch.no_grad():
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    right = (logits.argmax(-1) == labels)[labels != -100].float().mean()
    assert right > 0.9
    for task in TASKS:
        row = builtin_rows(task, "train", seed=0, count=1)[0]
        prompt = tokenizer(row["prompt"], return_tensors="pt", return_token_type_ids=False)
        answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True) != row["answer"]


def test_shipped_tokenizer_is_the_one_the_script_makes(tokenizer: PreTrainedTokenizerFast) -> None:
    made = make_tokenizer(tokenizer.model_max_length)
    assert made.get_vocab() == tokenizer.get_vocab()
    for row in builtin_rows("span", "train", seed=0, count=20):
        assert made(row["prompt"])["input_ids"] == tokenizer(row["prompt"])["input_ids"]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_comes_back_unchanged(text: str) -> None:
    tokenizer = make_tokenizer(128)
    if re.search("<(pad|bos|eos)>", text):
        return
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokens_point_at_their_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "reverse: kdax=xadk"
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = [text[start:end] for start, end in encoded["offset_mapping"]]
    assert spans == ["", "reverse", ":", " ", *"kdax=xadk"]


def test_pre_training_text_never_asks_as_the_tasks_do() -> None:
    rng = random.Random(0)
    texts = ["".join(piece for piece, _ in draw_text(rng)) for _ in range(3000)]
    asking = re.compile(rf"({'|'.join(TASKS)}): [^\n]*=")
    assert not any(asking.search(text) for text in texts)


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.__name__)
def test_labels_are_what_follows(skill, tokenizer: PreTrainedTokenizerFast) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(1)
    texts = [skill(rng) for _ in range(20)]
    batch = encode(tokenizer, texts)
    for text, ids, labels, mask in zip(
        texts, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    ):
        answer = tokenizer.decode(labels[labels != -100])
        assert answer == "".join(piece for piece, follows in text if follows) + tokenizer.eos_token
        assert torch.equal(labels[labels != -100], ids[labels != -100])
        assert torch.all(mask[labels != -100] == 1)


def test_pre_training_lowers_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = type(AutoModelForCausalLM.from_pretrained(builtin_model()))(
        make_config(tokenizer, layers=1, width=32, heads=4)
    )
    batch = encode(tokenizer, [draw_text(random.Random(place)) for place in range(64)])
    with torch.no_grad():
        before = model(**batch).loss
    pretrain(model, tokenizer, seed=0, steps=30, batch_size=16)
    with torch.no_grad():
        after = model(**batch).loss
    assert after < before - 0.5


def test_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    for folder, seed in [("first", 0), ("again", 0), ("other", 1)]:
        make_model(tmp_path / folder, seed=seed, steps=3, layers=1, width=32, heads=4)
        torch.rand(1)
    read = {folder: (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "again", "other")}
    assert read["first"] == read["again"]
    assert read["first"] != read["other"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "first").config.num_hidden_layers == 1
