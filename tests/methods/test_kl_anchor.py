"""Anchored fine-tuning: the divergence of whole rows from the model before, from the first task on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from ragged_rows import packed_in
from torch import Tensor, nn
from toy_tasks import context, task_batch, toy_samples

from seekr.memory.reader import KeptSample
from seekr.methods import KlAnchor, Lwf, Objective, Sequential
from seekr.modeling.batches import collate
from seekr.modeling.packing import plan_layout

SAMPLES = toy_samples(7)


def begun(method: KlAnchor, folder: Path, model: nn.Module, **changes: Any) -> Any:
    """The objective of the first task."""
    return method.start(context(folder, model, SAMPLES, **changes))


def by_hand(old: nn.Module, new: nn.Module, samples: list[KeptSample]) -> Tensor:
    """Mean over all predicted tokens of all rows of KL(old || new), row by row in float64."""
    terms = []
    for sample in samples:
        inputs = by_definition.inputs_of(collate([sample], 0))
        with torch.no_grad():
            teacher = old(**inputs).logits[0, :-1].double().log_softmax(-1)
        student = new(**inputs).logits[0, :-1].double().log_softmax(-1)
        terms.append((teacher.exp() * (teacher - student)).sum(-1))
    assert sum(map(len, terms)) == sum(len(sample.input_ids) - 1 for sample in samples)
    return torch.cat(terms).mean()


@pytest.mark.parametrize("top_k", [None, 128, 5])
def test_the_anchor_is_zero_before_the_first_step(tmp_path: Path, top_k: int | None) -> None:
    """Of the first task too, which the base model anchors."""
    model = by_definition.tiny_llama()
    objective = begun(KlAnchor(logit_top_k=top_k, kl_weight=3.0), tmp_path, model)
    for chosen in ([0, 1, 2, 3, 4, 5, 6], [6], [2, 0]):
        part = objective.task_loss(model, task_batch(SAMPLES, chosen, signals=objective.signals))["kl"]
        assert abs(part.item()) < 2e-6
        gradient = torch.autograd.grad(part, model.lm_head.weight)[0]
        assert gradient.abs().max() < 1e-6
    other = by_definition.moved(model, 0.1)
    batch = task_batch(SAMPLES, [0, 1], signals=objective.signals)
    assert objective.task_loss(other, batch)["kl"].item() > 1e-4


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_and_its_gradient_by_definition(tmp_path: Path, packed: bool) -> None:
    old = by_definition.tiny_llama()
    new = by_definition.moved(old, 0.2).requires_grad_(True)
    objective = begun(KlAnchor(kl_weight=0.7, logit_top_k=None), tmp_path, old)
    expected = 0.7 * by_hand(old, new, SAMPLES)
    plain = Objective(Sequential()).task_loss(new, task_batch(SAMPLES))["task"]
    wanted = torch.autograd.grad(expected + plain, list(new.parameters()))
    for cuts in ([[0, 1, 2, 3, 4, 5, 6]], [[0], [1, 2, 3], [6, 5, 4, 4]]):
        new.zero_grad()
        totals = {"task": 0.0, "kl": 0.0}
        for cut in cuts:
            batch = task_batch(SAMPLES, cut, len(cut) - len(set(cut)), objective.signals)
            if packed:
                lengths = [len(SAMPLES[place].input_ids) for place in cut]
                layout = plan_layout(lengths, hidden_size=32, attention="sdpa")
                batch = batch if layout is None else packed_in(batch, layout)
            parts = objective.task_loss(new, batch)
            torch.stack(list(parts.values())).sum().backward()
            totals = {name: total + parts[name].item() for name, total in totals.items()}
        assert totals["kl"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert totals["task"] == pytest.approx(plain.item(), rel=1e-5)
        assert expected.item() > 5e-3
        for parameter, gradient in zip(new.parameters(), wanted, strict=True):
            assert parameter.grad is not None
            assert by_definition.relative_error(parameter.grad, gradient, 1e-6) < 1e-4


def test_prompts_are_held_where_lwf_holds_answers_alone(tmp_path: Path) -> None:
    """On rows of answers alone the two are the same, temperature 1 and the first token aside."""
    old = by_definition.tiny_llama()
    new = by_definition.moved(old, 0.2)
    objective = begun(KlAnchor(logit_top_k=None), tmp_path / "one", old)
    lwf = Lwf(temperature=1.0, logit_top_k=None)
    held = lwf.start(context(tmp_path / "two", old, SAMPLES, index=1, stages=[tmp_path / "00"]))
    anchored, distilled = (one.task_loss(new, task_batch(SAMPLES, signals=one.signals)) for one in (objective, held))
    torch.testing.assert_close(anchored["task"], distilled["task"])
    assert anchored["kl"].item() != pytest.approx(distilled["distillation"].item(), rel=1e-3)
    answers = [KeptSample(sample.input_ids, sample.input_ids) for sample in SAMPLES]
    objective = KlAnchor(logit_top_k=None).start(context(tmp_path / "three", old, answers))
    held = lwf.start(context(tmp_path / "four", old, answers, index=1, stages=[tmp_path / "00"]))
    anchored, distilled = (one.task_loss(new, task_batch(answers, signals=one.signals)) for one in (objective, held))
    torch.testing.assert_close(anchored["kl"], distilled["distillation"])


def test_a_weight_of_zero_is_plain_fine_tuning(tmp_path: Path) -> None:
    model = by_definition.tiny_llama()
    objective = begun(KlAnchor(kl_weight=0.0), tmp_path, model)
    batch = task_batch(SAMPLES, [0, 1, 2], signals=objective.signals)
    found, plain = objective.task_loss(model, batch), Objective(Sequential()).task_loss(model, batch)
    assert found.keys() == {"task"}
    assert torch.equal(found["task"], plain["task"])
    assert not (tmp_path / "working").exists()
