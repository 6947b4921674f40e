"""Golden numbers on tiny Llamas through the public functions: by definition in float64, and the released SEEKR code's.

Those by definition are in tests/golden, and `golden_attention` computes them; the released code's are not the project's
to give away, and are checked where they are at hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import golden_attention
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import seekr
from seekr.attention.heads import head_importance
from seekr.attention.sensitivity import unnormalized_sensitivity
from seekr.modeling.losses import answer_cross_entropy, answer_positions

TOLERANCE = 1e-4


class Golden:
    """One triple of models, its batches, and what is to be computed on them."""

    def __init__(self, folder: Path, models: dict[str, Any], batches: dict[str, Tensor]) -> None:
        self.before, self.after, self.student = (models[name].eval() for name in ("before", "after", "student"))
        self.tensors: dict[str, Tensor] = load_file(folder / "golden.safetensors") | batches
        self.facts: dict[str, Any] = json.loads((folder / "golden.json").read_text())
        self.batch = {name: self.tensors[name] for name in ("input_ids", "attention_mask", "labels")}
        self.left_padded = {
            name: self.tensors[f"left_padded_{name}"] for name in ("input_ids", "attention_mask")
        } | {"labels": self.tensors["labels"]}  # fmt: skip
        self.heads = self.selected("all_entries")

    def selected(self, entries: str) -> dict[int, Tensor]:
        chosen = self.facts[f"selected_heads_{entries}"]
        return {int(layer): torch.tensor(heads) for layer, heads in chosen.items()}

    def check(self, name: str, found: Tensor) -> None:
        expected = self.tensors[name] if name in self.tensors else torch.tensor(self.facts[name])
        assert by_definition.relative_error(found.detach(), expected) < TOLERANCE, name

    def logits(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(**by_definition.inputs_of(self.batch), use_cache=False).logits


def by_definition_of(name: str) -> Golden:
    shape = golden_attention.SHAPES[name]
    models = {}
    for who, weights in golden_attention.weights_of(shape).items():
        models[who] = LlamaForCausalLM(LlamaConfig(**golden_attention.llama_config(shape)))
        models[who].load_state_dict(weights)
    return Golden(golden_attention.FOLDER / name, models, golden_attention.batches_of(shape))


def released(folder: Path) -> Golden:
    models = {
        name: AutoModelForCausalLM.from_pretrained(folder / name) for name in ("before", "after", "student")
    }  # fmt: skip
    return Golden(folder, models, {})


@pytest.fixture(
    scope="module",
    params=["mha", "gqa", *(pytest.param(f"released {name}", marks=pytest.mark.shared) for name in ("mha", "gqa"))],
)
def golden(request: pytest.FixtureRequest) -> Golden:
    if not request.param.startswith("released"):
        return by_definition_of(request.param)
    name = request.param.removeprefix("released ")
    return released(request.getfixturevalue("shared") / "golden" / "attention" / name)


@pytest.mark.parametrize("name", list(golden_attention.SHAPES))
def test_the_numbers_in_the_repository_are_those_of_the_definition(name: str) -> None:
    folder = golden_attention.FOLDER / name
    tensors, facts = golden_attention.numbers_of(golden_attention.SHAPES[name])
    kept = load_file(folder / "golden.safetensors")
    assert kept.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert by_definition.relative_error(kept[key], tensor.detach()) < 1e-6, key
    written = json.loads((folder / "golden.json").read_text())
    losses = {key: value for key, value in facts.items() if isinstance(value, float)}
    assert {key: written[key] for key in losses} == pytest.approx(losses, rel=1e-9)
    assert {**written, **losses} == facts


def test_attention_loss_and_its_gradients(golden: Golden) -> None:
    loss = seekr.attention_distillation_loss(golden.student, golden.after, golden.batch, golden.heads)
    golden.check("attention_distillation_loss", loss)
    found = by_definition.gradients(golden.student, loss)
    for name, expected in golden.tensors.items():
        if name.startswith("attention_loss_grad."):
            _, layers, index, projection = name.split(".")
            golden.check(name, found[f"model.{layers}.{index}.self_attn.{projection}.weight"])
            assert expected.any() or int(index) > max(golden.heads)


def test_attention_loss_of_a_query_budget(golden: Golden) -> None:
    queries = golden.tensors["queries"]
    loss = seekr.attention_distillation_loss(golden.student, golden.after, golden.batch, golden.heads, queries=queries)
    golden.check("attention_distillation_loss_queries", loss)


def test_attention_loss_left_padded(golden: Golden) -> None:
    assert golden.left_padded["attention_mask"].sum(1).tolist() == golden.facts["left_padded_lengths"]
    loss = seekr.attention_distillation_loss(golden.student, golden.after, golden.left_padded, golden.heads)
    golden.check("attention_distillation_loss_left_padded", loss)


@pytest.mark.parametrize(
    ("name", "entries", "norm"),
    [
        ("sensitivity_all_entries", "all", "mean_square"),
        ("sensitivity_visible", "visible", "mean_square"),
        ("sensitivity_frobenius_all_entries", "all", "frobenius"),
        ("sensitivity_frobenius_visible", "visible", "frobenius"),
    ],
)
def test_sensitivity(golden: Golden, name: str, entries: Any, norm: Any) -> None:
    golden.check(name, seekr.measure_sensitivity(golden.after, golden.batch, entries=entries, norm=norm))
    if norm == "mean_square":
        unnormalized = unnormalized_sensitivity(golden.after, golden.batch, entries=entries, norm=norm)
        golden.check(f"{name}_unnormalized", unnormalized)


def test_change(golden: Golden) -> None:
    for name, norm in (("forgettability", "mean_square"), ("forgettability_frobenius", "frobenius")):
        golden.check(name, seekr.measure_change(golden.before, golden.after, golden.batch, norm=norm))  # type: ignore[arg-type]


@pytest.mark.parametrize("entries", ["all", "visible"])
def test_importance_and_selected_heads(golden: Golden, entries: Any) -> None:
    sensitivity = seekr.measure_sensitivity(golden.after, golden.batch, entries=entries, norm="mean_square")
    change = seekr.measure_change(golden.before, golden.after, golden.batch, norm="mean_square")
    importance = head_importance([sensitivity], [change], form="sum_of_products")
    name = {"all": "all_entries", "visible": "visible"}[entries]
    golden.check(f"importance_{name}", importance)
    budgets = {key: golden.facts["config"][key] for key in ("layer_budget", "head_budget")}
    chosen = seekr.select_heads(importance, **budgets)
    expected = golden.selected(name)
    assert {layer: heads.tolist() for layer, heads in chosen.items()} == {
        layer: heads.tolist() for layer, heads in expected.items()
    }


def test_logit_losses(golden: Golden) -> None:
    student, teacher = golden.logits(golden.student), golden.logits(golden.after)
    golden.check("student_logits", student)
    golden.check("teacher_logits", teacher)
    labels = golden.batch["labels"]
    shifted = seekr.logit_distillation_loss(student, teacher, labels)
    golden.check("logit_distillation_loss_predicting_positions", shifted)
    unshifted = seekr.logit_distillation_loss(student, teacher, labels, shift=False)
    golden.check("logit_distillation_loss_label_positions", unshifted)


def test_total_of_a_replay_step(golden: Golden) -> None:
    """½ replay + ½ logits (not shifted) + 1000 attention, as the released code adds them up."""
    student, teacher = golden.logits(golden.student), golden.logits(golden.after)
    labels = golden.batch["labels"]
    answers = int((labels[:, 1:] != -100).sum())
    replay = answer_cross_entropy(student[answer_positions(labels)], labels, torch.ones(len(labels))) / answers
    golden.check("replay_loss", replay)
    attention = seekr.attention_distillation_loss(golden.student, golden.after, golden.batch, golden.heads)
    logit = seekr.logit_distillation_loss(student, teacher, labels, shift=False)
    golden.check("total_loss_w0.5_1000", 0.5 * replay + 0.5 * logit + 1000 * attention)
