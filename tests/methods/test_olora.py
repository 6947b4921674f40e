"""O-LoRA's penalty against its definition, the adapters as one, and what of them learns."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from peft import LoraConfig
from precisions import AUTOCAST, assert_same_bits
from toy_tasks import task_batch, toy_samples

from seekr.methods import Objective, Olora
from seekr.methods.olora import _overlap
from seekr.modeling.loading import save_model

LORA = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", **LORA, **more)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    by_definition.tiny_llama().save_pretrained(folder)
    return folder


class NoTokenizer:
    pad_token_id = eos_token_id = bos_token_id = None

    def save_pretrained(self, folder: Path) -> None:
        pass


def objective_of(method: Olora, model: Any) -> Objective:
    return method.start(SimpleNamespace(model=model))  # type: ignore[arg-type]


def learned(method: Olora, base: Path, folder: Path, tasks: int, **more: Any) -> Path:
    """A stage's model folder behind `tasks` tasks, each of which filled its adapter with random numbers."""
    weights: Path | None = None
    for task in range(tasks):
        torch.manual_seed(task)
        model = method.form.load_trainable(str(base), weights, dtype="float32", lora=lora(**more))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3)
        weights = folder / str(task)
        save_model(method.form.trained(model), NoTokenizer(), weights)  # type: ignore[arg-type]
    assert weights is not None
    return weights


def test_penalty_is_the_definition_however_a_step_is_cut(base: Path, tmp_path: Path) -> None:
    method = Olora(orthogonality_weight=0.7)
    model = method.form.load_trainable(str(base), learned(method, base, tmp_path, 2), dtype="float32", lora=lora())
    expected = 0.0
    for layer in model.modules():
        if hasattr(layer, "lora_A") and len(layer.lora_A):
            past, new = (layer.lora_A[name].weight.detach().numpy().astype(float) for name in ("past", "default"))
            for task in (past[:2], past[2:]):
                expected += sum(float(np.dot(one, two)) ** 2 for one in task for two in new)
    assert expected > 0
    samples = toy_samples(5)
    for cuts in ([5], [2, 3], [1, 1, 1, 1, 1]):
        parts = {"task": 0.0, "orthogonality": 0.0}
        start = 0
        for cut in cuts:
            # The filler weighs nothing, as where ranks have to run equally many rows.
            batch = task_batch(samples, [*range(start, start + cut), 0], fillers=1)
            for name, value in objective_of(method, model).step_losses(model, batch).items():
                parts[name] += value.item()
            start += cut
        assert parts["orthogonality"] == pytest.approx(0.7 * expected, rel=1e-5)
    assert parts["task"] > 0


@pytest.mark.parametrize("around", AUTOCAST)
def test_penalty_has_the_same_bits_under_autocast(base: Path, tmp_path: Path, around: str) -> None:
    method = Olora()
    model = method.form.load_trainable(str(base), learned(method, base, tmp_path, 1), dtype="float32", lora=lora())

    def numbers() -> list[torch.Tensor]:
        return [_overlap(model).detach()]

    assert_same_bits(numbers, around)


def test_without_past_or_weight_there_is_no_penalty(base: Path, tmp_path: Path) -> None:
    method = Olora()
    samples = toy_samples(3)
    batch = task_batch(samples)
    model = method.form.load_trainable(str(base), None, dtype="float32", lora=lora())
    assert objective_of(method, model).step_losses(model, batch).keys() == {"task"}
    weights = learned(method, base, tmp_path, 1)
    for weight, parts in ((0.5, {"task", "orthogonality"}), (0.0, {"task"})):
        method = Olora(orthogonality_weight=weight)
        model = method.form.load_trainable(str(base), weights, dtype="float32", lora=lora())
        assert objective_of(method, model).step_losses(model, batch).keys() == parts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_adapter_answers_as_all_of_them(base: Path, tmp_path: Path, dtype: str) -> None:
    method = Olora()
    weights = learned(method, base, tmp_path, 2)
    model = method.form.load_trainable(str(base), weights, dtype=dtype, lora=lora()).eval()
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        for layer in model.modules():
            if hasattr(layer, "lora_B") and len(layer.lora_B):
                layer.lora_B["default"].weight.normal_(std=0.3)
        all_of_them = model(ids).logits
        joined = method.form.trained(copy.deepcopy(model)).eval()(ids).logits
        past = method.form.load(str(base), weights, dtype=dtype)(ids).logits
    noise = 1e-5 if dtype == "float32" else 0.05
    assert by_definition.relative_error(joined, all_of_them) < noise
    assert by_definition.relative_error(past, all_of_them) > 10 * noise  # the new one says something


def test_a_new_task_begins_where_the_last_one_ended(base: Path, tmp_path: Path) -> None:
    method = Olora()
    weights = learned(method, base, tmp_path, 2)
    ids = torch.arange(3, 30)[None]
    model = method.form.load_trainable(str(base), weights, dtype="float32", lora=lora()).eval()
    with torch.no_grad():
        ended = method.form.load(str(base), weights, dtype="float32")(ids).logits
        assert by_definition.relative_error(model(ids).logits, ended) < 1e-6


def test_only_the_new_adapter_learns_and_drops(base: Path, tmp_path: Path) -> None:
    """Also where the Trainer has read a checkpoint, behind which it makes the new adapter the only active one."""
    method = Olora()
    weights = learned(method, base, tmp_path, 1, lora_dropout=0.5)
    model = method.form.load_trainable(str(base), weights, dtype="float32", lora=lora(lora_dropout=0.5)).train()
    model.set_adapter("default")
    samples = toy_samples(3)
    torch.stack(list(objective_of(method, model).step_losses(model, task_batch(samples)).values())).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(".default." in name for name in trained)
    for layer in model.modules():
        if hasattr(layer, "lora_dropout") and len(layer.lora_dropout):
            assert isinstance(layer.lora_dropout["past"], torch.nn.Identity)
            assert isinstance(layer.lora_dropout["default"], torch.nn.Dropout)
