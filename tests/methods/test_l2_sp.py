"""L2-SP: a spring on every trained weight, from where it was when the task began."""

from __future__ import annotations

from pathlib import Path

import attention_definitions as by_definition
import pytest
import torch
from toy_tasks import context, task_batch, toy_samples

from seekr import Task, learn
from seekr.methods import make_method

SAMPLES = toy_samples(5)


@pytest.mark.parametrize("frozen", [False, True])
def test_penalty_and_gradient_by_definition(tmp_path: Path, frozen: bool):
    old = by_definition.tiny_llama().requires_grad_(True)
    old.lm_head.weight.requires_grad_(not frozen)
    objective = make_method({"name": "l2_sp", "pull": 0.3}).start(context(tmp_path, old, SAMPLES))
    before = {name: weight.detach().double().clone() for name, weight in old.named_parameters()}
    assert objective.penalties["l2_sp"](old).item() == 0
    with torch.no_grad():
        for weight in old.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    penalty = objective.penalties["l2_sp"](old)
    trained = {name: weight for name, weight in old.named_parameters() if weight.requires_grad}
    assert len(trained) == len(before) - frozen
    expected = sum(((weight.detach().double() - before[name]) ** 2).sum() for name, weight in trained.items())
    assert penalty.item() == pytest.approx(0.15 * expected.item(), rel=1e-5)
    for (name, weight), gradient in zip(trained.items(), torch.autograd.grad(penalty, trained.values()), strict=True):
        moved = weight.detach().double() - before[name]
        torch.testing.assert_close(gradient.double(), 0.3 * moved, rtol=1e-4, atol=1e-6)


def test_penalty_of_half_precision_weights_is_summed_in_float32(tmp_path: Path):
    model = by_definition.tiny_llama().to(torch.bfloat16).requires_grad_(True)
    objective = make_method({"name": "l2_sp", "pull": 2.0}).start(context(tmp_path, model, SAMPLES))
    before = model.lm_head.weight.detach().float().clone()
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    moved = model.lm_head.weight.detach().float() - before
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = objective.penalties["l2_sp"](model)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(moved.square().sum().item(), rel=1e-6)


def test_without_a_pull_a_step_is_that_of_plain_fine_tuning(tmp_path: Path):
    model = by_definition.tiny_llama().requires_grad_(True)
    objective = make_method({"name": "l2_sp", "pull": 0.0}).start(context(tmp_path, model, SAMPLES))
    assert set(objective.step_losses(model, task_batch(SAMPLES, [0, 1]))) == {"task"}


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_stronger_pull_moves_less_and_each_task_begins_at_rest(tmp_path, tiny_model_folder, lora):
    tasks = [
        Task(name, train=[{"prompt": f"{name}{place}:", "answer": f" {place % 3}"} for place in range(8)])
        for name in ("a", "b")
    ]
    training = {"use_cpu": True, "num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}
    drift = {}
    for pull in (0.0, 100.0):
        run = learn(
            model=tiny_model_folder,
            tasks=tasks,
            output_dir=tmp_path / str(pull),
            method={"name": "l2_sp", "pull": pull},
            training=training,
            lora=lora,
        )
        drift[pull] = [entry.parts.get("l2_sp", 0.0) for entry in run.stages[1].log]
    assert drift[0.0] == [0.0] * 4
    assert drift[100.0][0] == 0
    assert all(value > 0 for value in drift[100.0][1:])
