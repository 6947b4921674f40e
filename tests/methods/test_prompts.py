"""Soft prompts: exactly the model behind its virtual tokens, in any batch, loaded by peft itself where that can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from toy_tasks import toy_samples
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from seekr.errors import InputError
from seekr.methods import L2p, Lfpt5, ProgressivePrompts, make_method
from seekr.methods.soft_prompts import SoftPromptModel, answer_starts, prompt_mask

WIDE = {"initializer_range": 0.4, "vocab_size": 96}


def base_model(family: str = "llama", **more: Any) -> Any:
    torch.manual_seed(1)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **WIDE, **more)).eval()
    shape = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if family == "window":
        return MistralForCausalLM(MistralConfig(sliding_window=4, **shape, **WIDE, **more)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape, **WIDE, **more)).eval()


def prompted(kind: str, base: Any) -> SoftPromptModel:
    """A model of each method, its prompts at values of no symmetry."""
    methods = {
        "l2p": L2p(pool_size=6, prompt_tokens=2, prompts_per_input=2),
        "progressive_prompts": ProgressivePrompts(prompt_tokens=3),
        "lfpt5": Lfpt5(prompt_tokens=5),
    }
    model = methods[kind].make_model(base)
    width = model.encoder.embedding.weight.shape[1]
    if kind == "progressive_prompts":
        model.freeze_earlier({"prompt_embeddings": torch.randn(6, width), "places": torch.tensor([3, 2])})  # type: ignore[operator]
        model.encoder.places[0] = 4
    return model.eval()


KINDS = ["l2p", "progressive_prompts", "lfpt5"]
FAMILIES = ["llama", "gpt2", "window"]


def behind(model: SoftPromptModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one row [tokens] by definition: the base model on the virtual tokens' and the row's embeddings."""
    base = model.get_base_model()
    prefix = model.prefix(ids[None], torch.ones_like(ids[None]))
    rows = torch.cat([prefix, base.get_input_embeddings()(ids[None])], dim=1)
    return base(inputs_embeds=rows).logits[0, prefix.shape[1] :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_of_a_row_are_those_behind_its_prompts_padded_on_either_side(kind: str, family: str) -> None:
    model = prompted(kind, base_model(family))
    rows = [torch.tensor(sample.input_ids).long() for sample in toy_samples(5)]
    length = max(map(len, rows)) + 2
    for left in (False, True):
        ids, mask = torch.zeros(5, length, dtype=torch.long), torch.zeros(5, length, dtype=torch.long)
        places = [slice(length - len(row), length) if left else slice(0, len(row)) for row in rows]
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            ids[i, place], mask[i, place] = row, 1
        position_ids = torch.full_like(ids, 7)  # not the caller's to say
        found = model(input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
        assert found.shape == (5, length, 96)
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            torch.testing.assert_close(found[i, place], behind(model, row), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generation_is_greedy_decoding_at_any_batch_size(kind: str, family: str) -> None:
    model = prompted(kind, base_model(family))
    prompts = [torch.tensor(sample.input_ids).long() for sample in toy_samples(7)]
    expected = []
    for prompt in prompts:
        prefix = model.prefix(prompt[None], torch.ones_like(prompt[None]))
        ids = prompt
        for _ in range(6):  # no cache, no padding; L2P's choice is the prompt's
            base = model.get_base_model()
            rows = torch.cat([prefix, base.get_input_embeddings()(ids[None])], dim=1)
            ids = torch.cat([ids, base(inputs_embeds=rows).logits[0, -1].argmax()[None]])
        expected.append(ids[len(prompt) :].tolist())
    assert len({tuple(answer) for answer in expected}) > 3
    settings = GenerationConfig(do_sample=False, max_new_tokens=6, pad_token_id=0, eos_token_id=None)
    for size in (1, 3, 7):
        answers: list[list[int]] = []
        for start in range(0, 7, size):
            some = prompts[start : start + size]
            length = max(map(len, some))
            ids = torch.stack([torch.nn.functional.pad(p, (length - len(p), 0)) for p in some])
            mask = torch.stack([(torch.arange(length) >= length - len(p)).long() for p in some])
            found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            assert torch.equal(found[:, :length], ids)
            answers += found[:, length:].tolist()
        assert answers == expected


@torch.no_grad()
def test_first_generated_token_has_the_logits_of_training() -> None:
    for kind in KINDS:
        model = prompted(kind, base_model())
        prompt = torch.tensor([[0, 0, 5, 9, 17, 4]])
        mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
        seen: list[torch.Tensor] = []
        hook = model.get_base_model().register_forward_hook(
            lambda _m, _i, out, seen=seen: seen.append(out.logits[:, -1])
        )
        model.generate(prompt, mask, generation_config=GenerationConfig(max_new_tokens=1, pad_token_id=0))
        hook.remove()
        batch = torch.tensor([[5, 9, 17, 4, 33], [8, 7, 6, 5, 4]])  # in training an answer follows, and other rows
        options = {"query_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])} if kind == "l2p" else {}
        trained = model(input_ids=batch, use_cache=False, **options).logits[0, 3]
        torch.testing.assert_close(seen[0][0], trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_saved_model_loads_with_plain_peft(tmp_path: Path, dtype: torch.dtype) -> None:
    base_model().save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    ids = torch.tensor(toy_samples(1)[0].input_ids)[None].long()
    for kind in ("progressive_prompts", "lfpt5"):
        model = prompted(kind, base)
        assert model.encoder.embedding.weight.dtype == torch.float32
        model.save_pretrained(tmp_path / kind)
        model.load_adapter(tmp_path / kind)
        fresh = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
        plain = PeftModel.from_pretrained(fresh, tmp_path / kind)
        expected = plain(input_ids=ids).logits[:, -ids.shape[1] :]
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=0, rtol=0)
    prompted("l2p", base).save_pretrained(tmp_path / "l2p")
    with pytest.raises(KeyError, match="prompt_embeddings"):
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "l2p")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back_and_goes_on(tmp_path: Path, kind: str) -> None:
    model = prompted(kind, base_model())
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    other = prompted(kind, base_model())
    other.load_adapter(tmp_path, "default", is_trainable=True)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_checkpointing_are_those_without(kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(2)
        model = prompted(kind, base_model()).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(input_ids=torch.arange(3, 15).view(2, 6), use_cache=False).logits.square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert set(found[0]) == {"prompt_encoder.default.embedding.weight"}
    for one, two in zip(found[0].values(), found[1].values(), strict=True):
        torch.testing.assert_close(one, two)
        assert one.any()


def test_where_the_last_answer_begins() -> None:
    labels = torch.tensor([
        [-100, -100, 4, 5, -100], [-100, 3, -100, 4, 5], [1, 2, 3, 4, 5], [-100] * 5, [-100, 3, 4, -100, 9],
    ])  # fmt: skip
    assert answer_starts(labels).tolist() == [2, 3, 0, 5, 4]
    mask = torch.tensor([[1, 1, 1, 1, 0]] * 5)
    assert prompt_mask(mask, labels).sum(dim=1).tolist() == [2, 3, 0, 4, 4]


@pytest.mark.parametrize(
    ("method", "tasks", "virtual"),
    [
        (ProgressivePrompts(prompt_tokens=4), 3, 12),
        (L2p(prompt_tokens=3, prompts_per_input=4), 3, 12),
        (Lfpt5(prompt_tokens=10), 3, 12),
    ],
)
def test_prompts_must_fit_the_models_positions(method: Any, tasks: int, virtual: int) -> None:
    model = base_model()
    method.check_model(model, 64 - virtual, tasks)
    method.check_model(model, None, tasks)
    with pytest.raises(
        InputError, match=f"max_length: 60 and the {virtual} virtual tokens .* give max_length 52 or less"
    ):
        method.check_model(model, 60, tasks)
    model.config.max_position_embeddings = 10
    with pytest.raises(InputError, match="make the prompts shorter"):
        method.check_model(model, 10, tasks)
    model.config.max_position_embeddings = None
    method.check_model(model, 1000, tasks)
    with pytest.raises(InputError, match="takes no embeddings"):
        method.check_model(torch.nn.Linear(1, 1), 1000, tasks)


def test_more_prompts_than_the_pool_has() -> None:
    with pytest.raises(InputError, match="method.prompts_per_input: 5 of a pool of 4"):
        make_method({"name": "l2p", "pool_size": 4})
