"""`torch_compile` is allowed: what torch traces of a task step, a replay step and the tap computes the same."""

from __future__ import annotations

import os
from pathlib import Path

import attention_definitions as by_definition
import pytest
import torch
from ragged_rows import packed_in
from torch import Tensor, nn
from toy_tasks import learn_stages, replay_batch, task_batch, toy_samples

from seekr.config.training_arguments import training_arguments
from seekr.methods import make_method
from seekr.modeling.packing import plan_layout


def gradients(model: nn.Module, parts: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(torch.stack(list(parts.values())).sum(), list(model.parameters())))


@pytest.mark.slow
def test_compiled_steps_are_the_plain_ones(tmp_path: Path) -> None:
    models = [by_definition.tiny_llama()]
    models += [by_definition.moved(models[0], 0.2)]
    method = make_method({"name": "seekr", "replay_ratio": 0.5, "head_budget": 4, "attention_weight": 10.0})
    objective = learn_stages(method, tmp_path, [(models[0], models[1], toy_samples(8))])
    model = by_definition.moved(models[1], 0.2)
    compiled = torch.compile(model, backend="eager")
    for rows in ([(0, 0), (0, 1)], [(0, 2), (0, 3), (0, 1)]):
        batch = replay_batch(objective, rows, rows)
        expected, found = (objective.replay_loss(one, batch) for one in (model, compiled))
        assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
        for one, two in zip(gradients(model, found), gradients(model, expected), strict=True):
            assert by_definition.relative_error(one, two, 1e-3) < 1e-5
    samples = toy_samples(6)
    lengths = [len(sample.input_ids) for sample in samples]
    for layout in (None, plan_layout(lengths, 10**6, attention="sdpa")):
        batch = task_batch(samples) if layout is None else packed_in(task_batch(samples), layout)
        expected, found = (objective.task_loss(one, batch) for one in (model, compiled))
        assert found["task"].item() == pytest.approx(expected["task"].item())
        for one, two in zip(gradients(model, found), gradients(model, expected), strict=True):
            assert by_definition.relative_error(one, two, 1e-3) < 1e-5


def test_one_compiled_run_does_not_compile_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    arguments = training_arguments(
        {"torch_compile_backend": "eager", "torch_compile_mode": "reduce-overhead"}, output_dir=tmp_path, seed=0
    )
    assert arguments.torch_compile
    assert "ACCELERATE_DYNAMO_BACKEND" not in os.environ
    assert os.environ["ACCELERATE_DYNAMO_MODE"] == "default"
