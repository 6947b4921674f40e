"""Learning without forgetting: the divergence from the old model, zero before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from torch import Tensor, nn
from toy_tasks import context, task_batch, toy_samples

from seekr.memory.reader import KeptSample
from seekr.methods import Lwf, Objective, Sequential
from seekr.modeling.batches import collate
from seekr.modeling.losses import TopLogits

SAMPLES = toy_samples(7)


def begun(method: Lwf, folder: Path, model: nn.Module, samples: list[KeptSample] = SAMPLES, **changes: Any) -> Any:
    """The objective of the second task."""
    return method.start(context(folder, model, samples, **{"index": 1, "stages": [folder / "00"]} | changes))


def by_hand(old: nn.Module, new: nn.Module, samples: list[KeptSample], temperature: float) -> Tensor:
    """Mean over answer tokens of KL(old || new) of softened distributions, sample by sample in float64."""
    terms = []
    for sample in samples:
        batch = collate([sample], 0)
        inputs = by_definition.inputs_of(batch)
        with torch.no_grad():
            teacher = (old(**inputs).logits[0, :-1].double() / temperature).log_softmax(-1)
        student = (new(**inputs).logits[0, :-1].double() / temperature).log_softmax(-1)
        answers = batch["labels"][0, 1:] != -100
        terms.append((teacher.exp() * (teacher - student)).sum(-1)[answers])
    return torch.cat(terms).mean()


@pytest.mark.parametrize("top_k", [None, 128, 5])
def test_nothing_is_distilled_before_the_first_step(tmp_path: Path, top_k: int | None) -> None:
    model = by_definition.tiny_llama()
    objective = begun(Lwf(logit_top_k=top_k, distillation_weight=3.0), tmp_path, model)
    for chosen in ([0, 1, 2, 3, 4, 5, 6], [6], [2, 0]):
        part = objective.task_loss(model, task_batch(SAMPLES, chosen, signals=objective.signals))["distillation"]
        assert abs(part.item()) < 2e-6
        gradient = torch.autograd.grad(part, model.lm_head.weight)[0]
        assert gradient.abs().max() < 1e-6
    other = by_definition.moved(model, 0.1)
    batch = task_batch(SAMPLES, [0, 1], signals=objective.signals)
    assert objective.task_loss(other, batch)["distillation"].item() > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_and_its_gradient_by_definition(tmp_path: Path, temperature: float) -> None:
    old = by_definition.tiny_llama()
    new = by_definition.moved(old, 0.2).requires_grad_(True)
    objective = begun(Lwf(temperature=temperature, distillation_weight=0.7, logit_top_k=None), tmp_path, old)
    expected = 0.7 * by_hand(old, new, SAMPLES, temperature)
    wanted = torch.autograd.grad(expected, list(new.parameters()))
    for cuts in ([[0, 1, 2, 3, 4, 5, 6]], [[0], [1, 2, 3], [6, 5, 4, 4]]):
        new.zero_grad()
        total = 0.0
        for cut in cuts:
            batch = task_batch(SAMPLES, cut, len(cut) - len(set(cut)), objective.signals)
            part = objective.task_loss(new, batch)["distillation"]
            part.backward()
            total += part.item()
        # A cross-entropy less an entropy, nats both: float32 leaves some 1e-7 of them.
        assert total == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert expected.item() > 5e-3
        for parameter, gradient in zip(new.parameters(), wanted, strict=True):
            assert parameter.grad is not None
            assert by_definition.relative_error(parameter.grad, gradient, 1e-6) < 1e-4


def test_the_divergence_of_stored_entries_and_their_rest() -> None:
    teacher, student = 3 * torch.randn(4, 11), 3 * torch.randn(4, 11)
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    for k in (1, 4, 10, 11, 99):
        stored = TopLogits.of_logits(teacher, k, torch.float32)
        expected = []
        for row in range(4):
            kept = p[row].argsort(descending=True)[:k]
            rest = [i for i in range(11) if i not in kept.tolist()]
            cells = [(p[row, i], q[row, i]) for i in kept] + (
                [(p[row, rest].sum(), q[row, rest].sum())] if rest else []
            )
            expected.append(float(sum(one * (one / two).log() for one, two in cells)))
        assert stored.divergence(student).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert stored.divergence(teacher).abs().max() < 1e-6


def test_the_model_and_the_random_state_are_left_as_found(tmp_path: Path) -> None:
    model = by_definition.tiny_llama(attention_dropout=0.5).train()
    state = torch.random.get_rng_state()
    begun(Lwf(), tmp_path, model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_recording_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """As on resuming, where the old recording may be torn."""
    model = by_definition.tiny_llama()
    folder = tmp_path / "working" / "responses"
    files = []
    for _ in range(2):
        begun(Lwf(), tmp_path, model)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
        (folder / "memory.json").write_text("{")
    assert files[0] == files[1]


@pytest.mark.parametrize(("weight", "stages"), [(1.0, 0), (0.0, 1)])
def test_the_first_task_and_a_weight_of_zero_are_plain_fine_tuning(tmp_path: Path, weight: float, stages: int) -> None:
    model = by_definition.tiny_llama()
    objective = begun(Lwf(distillation_weight=weight), tmp_path, model, stages=[tmp_path / "00"] * stages)
    batch = task_batch(SAMPLES, [0, 1, 2], signals=objective.signals)
    found, plain = objective.task_loss(model, batch), Objective(Sequential()).task_loss(model, batch)
    assert found.keys() == {"task"}
    assert torch.equal(found["task"], plain["task"])
    assert not (tmp_path / "working").exists()
