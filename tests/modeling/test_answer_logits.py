"""Logits of answer tokens alone are those of the whole forward, in value and gradient, in any wrapping."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiers import thorough
from torch import Tensor, nn
from toy_tasks import task_batch, toy_samples
from transformers import LlamaForCausalLM

from seekr.memory.reader import KeptSample
from seekr.methods import Objective, Sequential
from seekr.methods.soft_prompts import SoftPromptModel
from seekr.modeling.losses import answer_positions, logits_at

LENGTHS = (11, 7, 1, 9)  # the answer of the third is predicted by no position


class WithoutPositions(nn.Module):
    """A model whose forward cannot be told which logits are wanted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(model.children())
        self._forward = model.forward

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, use_cache: bool) -> object:
        output = self._forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache
        )
        return SimpleNamespace(logits=output.logits)


def wrapped(kind: str) -> nn.Module:
    model = by_definition.tiny_llama()
    if kind == "lora":
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    if kind == "soft prompts":
        return SoftPromptModel(model, 3).eval()
    if kind == "compiled":
        return torch.compile(model, backend="eager")
    return WithoutPositions(model) if kind == "no positions" else model


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize("kind", ["plain", "lora", "soft prompts", *thorough("compiled"), "no positions"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_they_are_those_of_the_whole_forward(kind: str, side: str) -> None:
    model = wrapped(kind)
    inputs = by_definition.inputs_of(by_definition.make_batch(LENGTHS, side=side))
    rows, positions = torch.tensor([3, 0, 0, 1, 0]), torch.tensor([8, 10, 10, 6, 4])
    found = logits_at(model, inputs, rows, positions)
    expected = model(**inputs, use_cache=False).logits[rows, positions]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(found)
    pairs = zip(gradients(model, (found * upstream).sum()), gradients(model, (expected * upstream).sum()), strict=True)
    assert max(by_definition.relative_error(one, two, 1e-3) for one, two in pairs) < 1e-4


def test_no_place_has_no_logits_and_no_gradient() -> None:
    model = by_definition.tiny_llama()
    inputs = by_definition.inputs_of(by_definition.make_batch(LENGTHS))
    none = torch.zeros(0, dtype=torch.long)
    logits = logits_at(model, inputs, none, none)
    assert logits.shape == (0, 96)
    assert not any(gradient.any() for gradient in gradients(model, logits.sum()))


class TakesPositionsAlone(LlamaForCausalLM):
    """As before transformers 5.23: the module of its forward knows nothing of masks of places."""

    def forward(self, logits_to_keep: int | Tensor = 0, **inputs: Any) -> Any:  # type: ignore[override]
        return super().forward(logits_to_keep=logits_to_keep, **inputs)


@pytest.mark.parametrize("older", [False, True])
def test_other_logits_are_not_computed(older: bool) -> None:
    model = by_definition.tiny_llama()
    newer = hasattr(sys.modules[LlamaForCausalLM.__module__], "slice_logits_to_keep")
    if older:
        model.__class__ = TakesPositionsAlone
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    inputs = by_definition.inputs_of(by_definition.make_batch(LENGTHS))
    rows, positions = torch.tensor([0, 1, 3]), torch.tensor([9, 5, 9])
    found = logits_at(model, inputs, rows, positions)
    assert seen == [(3, 96) if newer and not older else (4, 2, 96)]
    torch.testing.assert_close(found, model(**inputs).logits[rows, positions], rtol=1e-5, atol=1e-5)


def one_answer_token(sample: KeptSample) -> KeptSample:
    labels = sample.labels.copy()
    labels[:-1] = -100
    return KeptSample(sample.input_ids, labels)


@pytest.mark.parametrize("cuts", [[[0, 1, 2, 3, 4, 5, 6]], [[3], [6, 0, 2], [5, 4, 1]]], ids=["whole", "cut"])
def test_a_task_step_is_the_sum_over_its_rows_alone(cuts: list[list[int]]) -> None:
    """Each row by itself, all its logits, masked; against micro-batches of odd sizes with a filler in each."""
    samples = [one_answer_token(sample) if i == 2 else sample for i, sample in enumerate(toy_samples(7, longest=23))]
    model = by_definition.tiny_llama()
    expected: Tensor | float = 0.0
    for place in range(len(samples)):
        alone = task_batch(samples, [place])
        logits = model(**alone.inputs, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits[0, :-1], alone.labels[0, 1:], ignore_index=-100, reduction="sum")
        expected = expected + losses / alone.step_tokens
    found: Tensor | float = 0.0
    for cut in cuts:
        found = found + Objective(Sequential()).task_loss(model, task_batch(samples, [*cut, 2], fillers=1))["task"]
    assert isinstance(found, Tensor)
    assert isinstance(expected, Tensor)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = zip(gradients(model, found), gradients(model, expected), strict=True)
    assert max(by_definition.relative_error(one, two, 1e-3) for one, two in pairs) < 1e-5


def test_a_row_without_answers_in_a_step_of_others() -> None:
    """A row whose only answer token is its first: no position predicts it."""
    samples = toy_samples(2)
    samples[1].labels[1:] = -100
    assert answer_positions(task_batch(samples, [1]).labels)[0].numel() == 0
    assert Objective(Sequential()).task_loss(by_definition.tiny_llama(), task_batch(samples, [1]))["task"].item() == 0
