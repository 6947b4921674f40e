"""A-GEM: no gradient goes against that of the kept rows, and one that does not is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_tasks import context, learn_stages, toy_samples

from seekr.methods import AGem
from seekr.methods.agem import project
from seekr.modeling.batches import collate
from seekr.modeling.losses import answer_cross_entropy, answer_positions


def flat(tensors: list[Tensor]) -> np.ndarray:
    return np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("seed", range(20))
def test_projection_by_definition(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (1,), (7,), (2, 2, 2)]
    gradient, reference = ([torch.randn(shape, generator=draw) for shape in shapes] for _ in range(2))
    scale = 10.0 ** (seed % 7 - 3)
    reference = [tensor * scale for tensor in reference]
    before = [tensor.clone() for tensor in gradient]
    g, r = flat(gradient), flat(reference)
    conflict = g @ r < 0
    assert project(list(zip(gradient, reference, strict=True))) == conflict
    found = flat(gradient)
    if conflict:
        assert found == pytest.approx(g - (g @ r) / (r @ r) * r, rel=1e-5, abs=1e-6)
        assert abs(found @ r) < 1e-6 * np.linalg.norm(g) * np.linalg.norm(r)
    else:
        assert all(torch.equal(one, two) for one, two in zip(gradient, before, strict=True))


def test_both_cases_of_the_projection_were_drawn() -> None:
    conflicts = set()
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        shapes = [(3, 4), (1,), (7,), (2, 2, 2)]
        gradient, reference = ([torch.randn(shape, generator=draw) for shape in shapes] for _ in range(2))
        conflicts.add(bool(flat(gradient) @ flat(reference) < 0))
    assert conflicts == {True, False}


@pytest.mark.parametrize("reference", [[0.0, 0.0], [float("inf"), -1.0], [float("nan"), -1.0]])
def test_a_reference_that_says_nothing_changes_nothing(reference: list[float]) -> None:
    gradient = torch.tensor([-1.0, 1.0])
    assert not project([(gradient, torch.tensor(reference))])
    assert gradient.tolist() == [-1.0, 1.0]


def test_an_overflow_under_a_loss_scale_is_still_seen_behind_the_projection() -> None:
    gradient = torch.tensor([float("-inf"), 1.0])
    project([(gradient, torch.tensor([1.0, 1.0]))])
    assert not gradient.isfinite().all()


def after_two_tasks(method: AGem, folder: Path, rows: int = 2) -> tuple[Any, nn.Module]:
    models = [by_definition.tiny_llama()]
    for _ in range(2):
        models.append(by_definition.moved(models[-1], 0.2))
    stages = [(models[0], models[1], toy_samples(12)), (models[1], models[2], toy_samples(9, seed=1))]
    learn_stages(method, folder, stages)
    done = [folder / "00", folder / "01"]
    model = models[2].requires_grad_(True)
    return method.start(context(folder / "next", model, [], stages=done, index=2, micro_batch_rows=rows)), model


def reference_gradient(objective: Any, model: nn.Module, step: int) -> list[Tensor]:
    """The gradient of the mean answer loss of the step's reference rows, all in one batch."""
    batch = collate([objective.kept[memory].encoded(sample) for memory, sample in objective.reference(step)], 0)
    labels = batch.pop("labels")
    logits = model(**batch).logits[answer_positions(labels)]
    loss = answer_cross_entropy(logits, labels, torch.ones(len(labels))) / (labels[:, 1:] != -100).sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_step_is_projected_by_the_gradient_of_the_reference_rows(tmp_path: Path, rows: int, sign: float) -> None:
    """However many rows a micro-batch holds; against the kept rows it goes, and along with them."""
    objective, model = after_two_tasks(AGem(replay_ratio=0.5, reference_rows=5), tmp_path, rows)
    reference = reference_gradient(objective, model, 3)
    noise = [torch.randn_like(tensor) * tensor.std() for tensor in reference]
    for parameter, one, two in zip(model.parameters(), reference, noise, strict=True):
        parameter.grad = sign * one + 0.3 * two
    handed = [parameter.grad for parameter in model.parameters()]
    g, r = flat([tensor.clone() for tensor in handed]), flat(reference)  # type: ignore[union-attr]
    objective.after_backward(model, 3)
    found = [parameter.grad for parameter in model.parameters()]
    assert all(one is two for one, two in zip(found, handed, strict=True))
    expected = g - min(0.0, g @ r) / (r @ r) * r
    assert flat(found) == pytest.approx(expected, rel=1e-4, abs=1e-5 * np.abs(g).max())  # type: ignore[arg-type]
    assert (flat(found) == g).all() == (sign > 0)  # type: ignore[arg-type]


def test_reference_rows_are_drawn_again_by_seed_task_and_step(tmp_path: Path) -> None:
    method = AGem(replay_ratio=0.5, reference_rows=4)
    objective, model = after_two_tasks(method, tmp_path)
    assert [len(memory) for memory in objective.kept] == [6, 4]
    drawn = [objective.reference(step) for step in range(20)]
    assert drawn == [objective.reference(step) for step in range(20)]
    assert all(len(set(rows)) == 4 for rows in drawn)
    assert {row for rows in drawn for row in rows} == {(0, i) for i in range(6)} | {(1, i) for i in range(4)}
    for changes in ({"seed": 1}, {"index": 3}):
        stages = [tmp_path / "00", tmp_path / "01"]
        other: Any = method.start(context(tmp_path / "other", model, [], stages=stages, **{"index": 2} | changes))
        assert [other.reference(step) for step in range(20)] != drawn
    about = context(tmp_path / "other", model, [], stages=[tmp_path / "00"], index=1)
    few: Any = AGem(replay_ratio=0.5, reference_rows=99).start(about)
    assert sorted(few.reference(0)) == [(0, i) for i in range(6)]


def test_processes_share_the_reference_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has as many forwards as the others, and together they count every row once."""
    objective, _ = after_two_tasks(AGem(replay_ratio=0.5, reference_rows=5), tmp_path, rows=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    counted: list[Any] = []
    sizes = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        batches = list(objective._reference_batches(7))
        sizes.append([len(batch.rows) for batch in batches])
        counted += [row for batch in batches for row, weight in zip(batch.rows, batch.weights, strict=True) if weight]
    assert sizes[0] == sizes[1] == [2, 1]
    assert sorted(counted) == sorted(objective.reference(7))


def test_the_first_task_has_nothing_to_be_against(tmp_path: Path) -> None:
    model = by_definition.tiny_llama()
    objective = AGem().start(context(tmp_path, model, []))
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    objective.after_backward(model, 0)
    assert parameter.grad.eq(1).all()
