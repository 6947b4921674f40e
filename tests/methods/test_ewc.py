"""Elastic weight consolidation: the Fisher information by hand, one quadratic for all tasks, read from the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from precisions import AUTOCAST
from safetensors.torch import load_file
from torch import Tensor, nn
from toy_tasks import context, task_batch, toy_samples

from seekr.errors import InputError
from seekr.memory.reader import KeptSample
from seekr.methods import Ewc, Objective, Sequential
from seekr.methods.ewc import FILE, Quadratic
from seekr.modeling.precision import no_autocast


class TwoNumbers(nn.Module):
    """Behind token x comes 1 with probability sigmoid(a·x + b), else 0."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value)) for value in (a, b))

    def forward(self, input_ids: Tensor, use_cache: bool = True, **masks: Tensor) -> Any:
        one = self.a * input_ids + self.b
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(one), one], dim=-1))


def bits(*rows: tuple[list[int], list[int]]) -> list[KeptSample]:
    """Rows of (tokens, which of them are answers)."""
    samples = []
    for ids, answers in rows:
        labels = [token if answer else -100 for token, answer in zip(ids, answers, strict=True)]
        samples.append(KeptSample(np.array(ids, np.int32), np.array(labels, np.int32)))
    return samples


FIRST = bits(([1, 0, 1, 1], [0, 1, 1, 1]), ([0, 1, 1], [0, 0, 1]), ([1, 1], [0, 1]))
SECOND = bits(([1, 1, 0, 0, 1], [0, 0, 1, 1, 1]), ([0, 0], [0, 1]))


def fisher_by_hand(a: float, b: float, samples: list[KeptSample]) -> np.ndarray:
    """[a, b]: mean over samples of (Σ over answer tokens of d log p / d number)²."""
    squares = []
    for sample in samples:
        gradient = np.zeros(2)
        for before, answer in zip(sample.input_ids[:-1], sample.labels[1:], strict=True):
            if answer != -100:
                missing = answer - 1 / (1 + np.exp(-(a * before + b)))
                gradient += missing * np.array([before, 1.0])
        squares.append(gradient**2)
    return np.mean(squares, axis=0)


def learned(method: Ewc, folder: Path, models: list[nn.Module], tasks: list[list[KeptSample]]) -> list[Path]:
    stages: list[Path] = []
    for index, (model, samples) in enumerate(zip(models, tasks, strict=True)):
        stage = folder / f"{index:02d}"
        method.remember(context(stage, model, samples, index=index, stages=list(stages)))
        stages.append(stage)
    return stages


def test_fisher_and_penalty_by_hand_on_two_numbers(tmp_path: Path) -> None:
    method = Ewc(penalty_weight=3.0)
    stages = learned(method, tmp_path, [TwoNumbers(0.7, -0.2)], [FIRST])
    fisher = fisher_by_hand(0.7, -0.2, FIRST)
    kept = load_file(stages[0] / "model" / FILE)
    assert [kept["fisher.a"].item(), kept["fisher.b"].item()] == pytest.approx(fisher.tolist(), rel=1e-5)
    assert [kept["anchor.a"].item(), kept["anchor.b"].item()] == pytest.approx([0.7, -0.2])

    model = TwoNumbers(1.1, 0.4)
    objective = method.start(context(tmp_path / "next", model, SECOND, index=1, stages=stages))
    parts = objective.step_losses(model, task_batch(SECOND, [0, 1]))
    moved = np.array([1.1 - 0.7, 0.4 + 0.2])
    assert parts["ewc"].item() == pytest.approx(3.0 / 2 * (fisher * moved**2).sum(), rel=1e-5)
    found = torch.autograd.grad(parts["ewc"], [model.a, model.b])
    assert [one.item() for one in found] == pytest.approx((3.0 * fisher * moved).tolist(), rel=1e-5)


def test_the_quadratic_of_two_tasks_is_the_sum_of_two_penalties(tmp_path: Path) -> None:
    method = Ewc(penalty_weight=1.0)
    states, tasks = [(0.7, -0.2), (-0.5, 0.9)], [FIRST, SECOND]
    stages = learned(method, tmp_path, [TwoNumbers(*state) for state in states], tasks)
    for at in ((0.3, 0.1), (-2.0, 5.0), (-0.5, 0.9)):
        model = TwoNumbers(*at)
        objective = method.start(context(tmp_path / "next", model, SECOND, index=2, stages=stages))
        found = objective.step_losses(model, task_batch(SECOND, [0, 1]))["ewc"]
        expected, gradient = 0.0, np.zeros(2)
        for state, task in zip(states, tasks, strict=True):
            fisher, moved = fisher_by_hand(*state, task), np.array(at) - np.array(state)
            expected += (fisher * moved**2).sum() / 2
            gradient += fisher * moved
        assert found.item() == pytest.approx(expected, rel=1e-5)
        derivative = [one.item() for one in torch.autograd.grad(found, [model.a, model.b])]
        assert derivative == pytest.approx(gradient.tolist(), rel=1e-5, abs=1e-6)
    sizes = [sum(tensor.numel() for tensor in load_file(stage / "model" / FILE).values()) for stage in stages]
    assert sizes[0] == sizes[1]  # what is kept does not grow


def llama_after_two_tasks(method: Ewc, folder: Path) -> tuple[Objective, nn.Module]:
    models = [by_definition.tiny_llama()]
    for _ in range(2):
        models.append(by_definition.moved(models[-1], 0.2))
    for model in models:
        model.requires_grad_(True)
    stages = learned(method, folder, models[:2], [toy_samples(6), toy_samples(5, seed=1)])
    return method.start(context(folder / "next", models[2], [], index=2, stages=stages)), models[2]


@pytest.mark.parametrize("cuts", [[[0, 1, 2, 3, 4]], [[0, 1], [2], [3, 4]], [[4, 3, 2], [0, 1, 1]]])
def test_a_step_is_the_same_however_it_is_cut(tmp_path: Path, cuts: list[list[int]]) -> None:
    objective, model = llama_after_two_tasks(Ewc(penalty_weight=50.0), tmp_path)
    samples = toy_samples(5, seed=2)
    parameters = dict(model.named_parameters())
    kept = Quadratic(tmp_path / "01" / "model" / FILE)
    terms = [kept.read(name) for name in parameters]
    plain = 25.0 * sum(
        (fisher * (parameter - anchor) ** 2).sum()
        for (fisher, anchor), parameter in zip(terms, parameters.values(), strict=True)
    )
    expected = torch.autograd.grad(plain, list(parameters.values()))
    total = 0.0
    for cut in cuts:
        fillers = len(cut) - len(set(cut))
        part = objective.step_losses(model, task_batch(samples, cut, fillers))["ewc"]
        part.backward()
        total += part.item()
    assert total == pytest.approx(plain.item() + 25.0 * kept.constant, rel=1e-5)
    for one, two in zip((parameter.grad for parameter in parameters.values()), expected, strict=True):
        assert one is not None
        assert by_definition.relative_error(one, two, 1e-9) < 1e-4
    alone = objective.step_losses(model, task_batch(samples, [0], fillers=1))
    assert alone.keys() == {"task", "ewc"}
    assert alone["ewc"].item() == 0


def test_nothing_of_the_quadratic_stays_in_memory_between_forward_and_backward(tmp_path: Path) -> None:
    _, model = llama_after_two_tasks(Ewc(penalty_weight=1.0), tmp_path)
    kept = Quadratic(tmp_path / "01" / "model" / FILE)
    assert not any(isinstance(value, Tensor) for value in vars(kept).values())
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept.penalty(list(model.named_parameters()))
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    assert {tensor.data_ptr() for tensor in saved if tensor.numel() > 1} <= weights


def test_the_backward_comes_to_the_penalty_when_that_of_the_model_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else gradients of all weights would lie beside all activations."""
    objective, model = llama_after_two_tasks(Ewc(penalty_weight=1.0), tmp_path)
    order: list[str] = []

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: order.append("first activation"))

    model.get_input_embeddings().register_forward_hook(watch)
    parts = objective.step_losses(model, task_batch(toy_samples(3), [0, 1, 2]))
    read = Quadratic.read
    monkeypatch.setattr(Quadratic, "read", lambda kept, name: (order.append("penalty"), read(kept, name))[1])
    torch.stack(list(parts.values())).sum().backward()
    assert order == ["first activation"] + ["penalty"] * len(list(model.parameters()))


def test_fisher_is_measured_on_drawn_rows_and_leaves_no_gradients(tmp_path: Path) -> None:
    model = by_definition.tiny_llama().requires_grad_(True)
    samples = toy_samples(9)
    files = []
    for folder, changes in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        Ewc(fisher_samples=2).remember(context(tmp_path / folder, model, samples, **changes))
        files.append((tmp_path / folder / "model" / FILE).read_bytes())
    assert files[0] == files[1] != files[2]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_is_summed_in_float32(tmp_path: Path) -> None:
    model = by_definition.tiny_llama().requires_grad_(True)
    samples = toy_samples(4)
    Ewc().remember(context(tmp_path / "float32", model, samples))
    Ewc().remember(context(tmp_path / "bfloat16", model.bfloat16(), samples))
    one, two = (load_file(tmp_path / name / "model" / FILE) for name in ("float32", "bfloat16"))
    assert all(tensor.dtype == torch.float32 for name, tensor in two.items() if name != "constant")
    for name in one:
        if name.startswith("fisher."):
            assert by_definition.relative_error(two[name], one[name], 1e-9) < 0.1


def test_the_first_task_and_a_weight_of_zero_are_plain_fine_tuning(tmp_path: Path) -> None:
    for method in (Ewc(), Ewc(penalty_weight=0.0)):
        model = by_definition.tiny_llama().requires_grad_(True)
        stages = [] if method.penalty_weight else learned(method, tmp_path, [model], [toy_samples(3)])
        objective = method.start(context(tmp_path / "next", model, [], index=1, stages=stages))
        batch = task_batch(toy_samples(3), [0, 1, 2])
        found, plain = objective.step_losses(model, batch), Objective(Sequential()).task_loss(model, batch)
        assert found.keys() == {"task"}
        assert torch.equal(found["task"], plain["task"])


def test_a_skill_is_held_on_to(tmp_path: Path) -> None:
    method = Ewc()
    base = by_definition.tiny_llama().requires_grad_(False)
    method.remember(context(tmp_path / "00", base, toy_samples(4), learn=False))
    assert not (tmp_path / "00" / "model").exists()  # else the next task would start from there
    assert not any(parameter.requires_grad for parameter in base.parameters())
    model = by_definition.moved(base, 0.1).requires_grad_(True)
    objective = method.start(context(tmp_path / "next", model, [], index=1, stages=[tmp_path / "00"]))
    assert objective.step_losses(model, task_batch(toy_samples(2), [0, 1]))["ewc"].item() > 0


def test_what_is_missing_or_of_other_weights_is_told_before_training(tmp_path: Path) -> None:
    model = by_definition.tiny_llama().requires_grad_(True)
    method = Ewc()
    stages = learned(method, tmp_path, [model], [toy_samples(3)])
    other = TwoNumbers(0.0, 0.0)
    with pytest.raises(InputError, match="not those that were measured before"):
        method.start(context(tmp_path / "next", other, [], index=1, stages=stages))
    (stages[0] / "model" / FILE).unlink()
    with pytest.raises(InputError, match=r"ewc\.safetensors: missing"):
        method.start(context(tmp_path / "next", model, [], index=1, stages=stages))


def test_fisher_fits_where_checkpointed_training_fits(tmp_path: Path) -> None:
    """With gradient checkpointing the layers' activations are not kept while the Fisher is measured either."""
    samples = toy_samples(5, seed=3)
    plain, checkpointed = (by_definition.tiny_llama() for _ in range(2))
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    forwards = []
    checkpointed.model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(checkpointed.training))
    files = [learned(Ewc(), tmp_path / str(n), [model], [samples])[0] for n, model in enumerate((plain, checkpointed))]
    assert len(forwards) == 2 * len(samples)
    assert not any(module.training for module in checkpointed.modules())
    expected, found = (load_file(file / "model" / FILE) for file in files)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-9)


def test_fisher_of_float16_autocast_is_not_lost_below_its_range(tmp_path: Path) -> None:
    model = by_definition.tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-5)
    samples = toy_samples(4, seed=5)
    plain = load_file(learned(Ewc(), tmp_path / "plain", [model], [samples])[0] / "model" / FILE)
    with torch.autocast("cpu", dtype=torch.float16):
        mixed = load_file(learned(Ewc(), tmp_path / "mixed", [model], [samples])[0] / "model" / FILE)
    name = "fisher.model.layers.0.mlp.down_proj.weight"
    assert plain[name].sum() > 0
    torch.testing.assert_close(mixed[name], plain[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("around", AUTOCAST)
def test_fisher_of_the_same_forward_has_the_same_bits_under_autocast(tmp_path: Path, around: str) -> None:
    """The backward is not under it, as in training: where a part of the forward is float32, its gradients are."""
    model = by_definition.tiny_llama()
    model.forward = no_autocast()(model.forward)  # type: ignore[method-assign]
    samples = toy_samples(4, seed=5)
    plain = load_file(learned(Ewc(), tmp_path / "plain", [model], [samples])[0] / "model" / FILE)
    with AUTOCAST[around]():
        mixed = load_file(learned(Ewc(), tmp_path / "mixed", [model], [samples])[0] / "model" / FILE)
    assert all(torch.equal(mixed[name], tensor) for name, tensor in plain.items())
