"""Soft prompts: exactly the model behind its virtual tokens, in any batch, loaded by peft itself where that can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from precisions import AUTOCAST, assert_same_bits
from toy_tasks import context, task_batch, toy_samples
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from seekr.data.token_rows import answer_tokens
from seekr.errors import InputError
from seekr.memory.reader import KeptSample, Memory
from seekr.methods import L2p, Lfpt5, ProgressivePrompts, make_method
from seekr.methods.l2p import AnswersAndKeys
from seekr.methods.lfpt5 import generation_token
from seekr.methods.soft_prompts import SoftPromptModel, answer_starts, prompt_mask
from seekr.modeling.batches import collate

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
    model = methods[kind].form.adapt(base, None)
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


@pytest.mark.parametrize("around", AUTOCAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_weights_in_16_bits_run_under_autocast_to_the_other_kind(kind: str, dtype: torch.dtype, around: str) -> None:
    model = prompted(kind, base_model())
    ids = torch.arange(3, 15).view(2, 6)
    expected = model(input_ids=ids, use_cache=False).logits
    model.base_model.to(dtype)
    with AUTOCAST[around]():
        found = model(input_ids=ids, use_cache=False).logits
    assert (found.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("around", AUTOCAST)
def test_l2p_chooses_the_same_prompts_under_autocast(around: str) -> None:
    model: Any = prompted("l2p", base_model())
    ids = torch.randint(3, 96, (16, 6))
    assert_same_bits(lambda: list(model.choose(ids, torch.ones_like(ids), penalized=True)), around)


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
    with pytest.raises(InputError, match="takes no embeddings"):
        method.check_model(torch.nn.Linear(1, 1), 1000, tasks)


def test_more_prompts_than_the_pool_has() -> None:
    with pytest.raises(InputError, match=r"method\.prompts_per_input: 5 of a pool of 4"):
        make_method({"name": "l2p", "pool_size": 4})


# A step's loss ------------------------------------------------------------------------------------------------------


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Σ over tokens, logits [tokens, vocabulary] being those of the positions before."""
    return -logits.log_softmax(-1)[torch.arange(len(targets)), targets].sum()


@torch.no_grad()
def test_l2p_loss_is_equation_5_however_it_is_cut() -> None:
    model: Any = prompted("l2p", base_model())
    method, samples = L2p(pool_size=6, prompt_tokens=2, prompts_per_input=2, key_weight=0.3), toy_samples(6)
    objective = AnswersAndKeys(method)
    model.encoder.counts[:] = torch.tensor([9, 0, 3, 0, 0, 12])
    answer, key, chosen = 0.0, 0.0, []
    for sample in samples:
        ids, start = torch.tensor(sample.input_ids).long(), len(sample.input_ids) // 2
        query = model.get_base_model().get_input_embeddings()(ids[:start]).mean(dim=0)
        distances = [1 - float(torch.cosine_similarity(query, one, dim=0)) for one in model.encoder.keys]
        penalty = [9 / 24, 1e-6, 3 / 24, 1e-6, 1e-6, 12 / 24]
        ranks = [distance * share for distance, share in zip(distances, penalty, strict=True)]
        mine = sorted(sorted(range(6), key=lambda i: ranks[i])[:2])
        chosen.append(mine)
        key += sum(distances[i] for i in mine)
        prefix = model.encoder.embedding.weight.view(6, 2, -1)[mine].flatten(0, 1)
        rows = torch.cat([prefix, model.get_base_model().get_input_embeddings()(ids)])[None]
        logits = model.get_base_model()(inputs_embeds=rows).logits[0, 4:]
        answer += float(cross_entropy(logits[start - 1 : -1], ids[start:]))
    assert {1, 3, 4} >= {i for mine in chosen for i in mine}  # those that were never chosen come first
    step = list(range(6))
    expected = {"task": answer / sum(map(answer_tokens, samples)), "key": 0.3 * key / 6}
    for cuts in ([step], [[0, 3], [5], [1, 2, 4]]):
        parts: dict[str, float] = {}
        for cut in cuts:
            # A filler weighs nothing.
            batch = task_batch(samples, [*cut, 0], fillers=1)
            for name, value in objective.task_loss(model, batch).items():
                parts[name] = parts.get(name, 0.0) + float(value)
        assert parts == pytest.approx(expected, rel=1e-5)


def test_l2p_gradients_reach_chosen_prompts_and_keys_alone() -> None:
    model: Any = prompted("l2p", base_model())
    samples = toy_samples(3)
    objective = AnswersAndKeys(L2p(pool_size=6, prompt_tokens=2, prompts_per_input=2))
    torch.stack(list(objective.task_loss(model, task_batch(samples)).values())).sum().backward()
    inputs = collate(samples, 0)
    chosen, _ = model.choose(
        inputs["input_ids"], prompt_mask(inputs["attention_mask"], inputs["labels"]), penalized=True
    )
    reached = torch.zeros(6, dtype=torch.bool)
    reached[chosen] = True
    assert 0 < int(reached.sum()) < 6
    assert torch.equal(model.encoder.embedding.weight.grad.view(6, -1).any(dim=1), reached)
    assert torch.equal(model.encoder.keys.grad.any(dim=1), reached)


@torch.no_grad()
def test_l2p_chooses_in_training_what_it_chooses_in_generation() -> None:
    """Labels tell the prompt in training; when an answer is generated, all that is there is the prompt."""
    model: Any = prompted("l2p", base_model())
    samples = toy_samples(40)
    inputs = collate(samples, 0)
    mask = prompt_mask(inputs["attention_mask"], inputs["labels"])
    in_training, distances = model.choose(inputs["input_ids"], mask, penalized=False)
    assert len({tuple(row.tolist()) for row in in_training}) > 5
    with_answers, _ = model.choose(inputs["input_ids"], inputs["attention_mask"], penalized=False)
    assert not torch.equal(in_training, with_answers)
    for sample, row, distance in zip(samples, in_training, distances, strict=True):
        prompt = torch.tensor(sample.input_ids[: len(sample.input_ids) // 2])[None].long()
        padded = torch.nn.functional.pad(prompt, (3, 0))
        chosen, found = model.choose(padded, (torch.arange(padded.shape[1]) >= 3).long()[None], penalized=False)
        assert torch.equal(chosen[0], row)
        torch.testing.assert_close(found[0], distance)


def make_lfpt5(tmp_path: Path, model: Any, samples: list[Any], **settings: Any) -> tuple[Lfpt5, Any]:
    method = Lfpt5(prompt_tokens=5, **settings)
    return method, context(tmp_path, model, samples, tokenizer=Words())


class Words:
    """As much of a tokenizer as the drawing of rows needs: the end token is 2, the special ones 0 to 2."""

    eos_token_id = 2
    all_special_ids = (2, 0, 1)

    def __len__(self) -> int:
        return 96

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(f"w{i}" for i in ids if i > 2)


@torch.no_grad()
def test_lfpt5_loss_is_of_the_answers_and_of_whole_rows(tmp_path: Path) -> None:
    model = prompted("lfpt5", base_model())
    samples = toy_samples(5)
    method, about = make_lfpt5(tmp_path, model, samples, lm_weight=0.3)
    objective = method.start(about)
    answer, whole, tokens = 0.0, 0.0, 0
    for sample in samples:
        ids, start = torch.tensor(sample.input_ids).long(), len(sample.input_ids) // 2
        answer += float(cross_entropy(behind(model, ids)[start - 1 : -1], ids[start:]))
        form = torch.cat([torch.tensor([2]), ids[:start], torch.tensor([2]), ids[start:]])
        whole += float(cross_entropy(behind(model, form)[:-1], form[1:]))
        tokens += len(form) - 1
    expected = {"task": answer / sum(map(answer_tokens, samples)), "lm": 0.3 * whole / tokens}
    for cuts in ([[0, 1, 2, 3, 4]], [[4], [0, 3], [2, 1]]):
        parts: dict[str, float] = {}
        for cut in cuts:
            batch = task_batch(samples, [*cut, 1], fillers=1)
            for name, value in objective.task_loss(model, batch).items():
                parts[name] = parts.get(name, 0.0) + float(value)
        assert parts == pytest.approx(expected, rel=1e-5)
    plain, about = make_lfpt5(tmp_path / "plain", model, samples, lm_weight=0.0)
    assert set(plain.start(about).task_loss(model, task_batch(samples, [0, 1]))) == {"task"}


def test_the_generation_token_is_in_no_prompt(tmp_path: Path) -> None:
    def row(*ids: int) -> KeptSample:
        array = np.array(ids, dtype=np.int32)
        return KeptSample(array, np.where(np.arange(len(ids)) < 3, -100, array).astype(np.int32))

    for samples, token in (
        ([row(5, 6, 7, 2)], 2),
        ([row(5, 2, 7, 8, 2)], 0),  # a chat's turns end with the end token
        ([row(5, 2, 7, 2), row(0, 1, 4, 2)], 3),
    ):
        assert generation_token(context(tmp_path, base_model(), samples, tokenizer=Words())) == token


class Script:
    """Stands in for the model: the rows that `generate` gives, call by call."""

    device = torch.device("cpu")
    generation_config = None

    def __init__(self, *calls: list[list[int]]) -> None:
        self.calls, self.asked = list(calls), []

    def modules(self) -> list[Any]:
        return []

    def eval(self) -> None:
        pass

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any) -> torch.Tensor:
        starts = [ids[mask > 0].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        self.asked.append((starts, generation_config.max_new_tokens, generation_config.eos_token_id))
        rows = self.calls.pop(0) if self.calls else [[9]] * len(starts)
        assert len(rows) == len(starts)
        length = max(map(len, rows))
        return torch.cat([input_ids, torch.tensor([row + [0] * (length - len(row)) for row in rows])], dim=1)


def test_pseudo_samples_are_what_was_drawn_and_usable(tmp_path: Path) -> None:
    """Seven are wanted: of the first seven one prompt does not end, one is empty, two answers are of no use."""
    samples = [KeptSample(*(np.array(a, dtype=np.int32) for a in pair)) for pair in (
        ([5, 6, 7, 8, 2], [-100, -100, -100, 8, 2]), ([5, 6, 7, 8, 9, 2], [-100, -100, 7, 8, 9, 2]),
    )]  # fmt: skip
    script = Script(
        [[11, 12, 2], [13, 2], [14, 15, 16, 17], [2], [18, 19, 20, 2], [21, 2, 30], [0, 1, 2]],
        [[40, 41, 2], [42, 2], [43, 2], [2, 44]],  # longest prompt first: 18 19 20, 11 12, 13, 21
        [[22, 23, 2], [24, 2], [25, 2], [26, 2]],
        [[50, 2], [51, 52, 53], [54, 2], [55, 56, 2]],
    )
    method = Lfpt5(prompt_tokens=5, pseudo_ratio=7 / 8)
    about = context(tmp_path, script, samples * 4, tokenizer=Words())  # type: ignore[arg-type]
    found = [sample.input_ids.tolist() for sample in method.kept_samples(about)]
    assert found == [
        [18, 19, 20, 40, 41, 2], [11, 12, 42, 2], [13, 43, 2],
        [22, 23, 50, 2], [25, 54, 2], [26, 55, 56, 2],
    ]  # fmt: skip
    assert script.asked[0] == ([[2]] * 7, 4, 2)
    assert script.asked[1] == ([[2, 18, 19, 20, 2], [2, 11, 12, 2], [2, 13, 2], [2, 21, 2]], 3, 2)
    assert script.asked[2] == ([[2]] * 4, 4, 2)
    assert [len(starts) for starts, _, _ in script.asked[4:]] == [1] * 6  # one is missing, in 6 rounds more
    kept = replace(method, pseudo_ratio=0.25).kept_samples(
        context(tmp_path, Script([[11, 2], [12, 2]], [[3, 2], [4, 2]]), samples * 4, tokenizer=Words())
    )  # type: ignore[arg-type]
    assert [sample.labels.tolist() for sample in kept] == [[-100, 3, 2], [-100, 4, 2]]


def test_a_task_is_remembered_by_the_same_draws(tmp_path: Path) -> None:
    model = prompted("lfpt5", base_model())
    for attempt in range(2):
        torch.manual_seed(attempt)
        method, about = make_lfpt5(tmp_path / str(attempt), model, toy_samples(20), pseudo_ratio=1.0)
        state = torch.get_rng_state()
        method.remember(about)
        assert torch.equal(torch.get_rng_state(), state)
    files = [{p.name: p.read_bytes() for p in (tmp_path / str(i) / "memory").iterdir()} for i in range(2)]
    assert files[0] == files[1]
    assert len(Memory.open(tmp_path / "0" / "memory")) > 0
    other = context(tmp_path / "other", model, toy_samples(20), tokenizer=Words(), index=1)
    assert [s.input_ids.tolist() for s in method.kept_samples(other)] != [
        s.input_ids.tolist() for s in method.kept_samples(about)
    ]


def test_a_skill_has_no_pseudo_samples(tmp_path: Path) -> None:
    method = Lfpt5(prompt_tokens=5)
    about = context(tmp_path, base_model(), toy_samples(4), tokenizer=Words(), learn=False)
    method.remember(about)
    assert len(Memory.open(tmp_path / "memory")) == 0
