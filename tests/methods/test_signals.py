"""Teacher signals on their way: what a micro-batch carries is what is kept, and one transfer brings all of it."""

from __future__ import annotations

import pickle
from operator import itemgetter
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from ragged_rows import samples, with_layout
from test_methods import all_rows, exact, two_tasks
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy_tasks import context, task_batch, toy_samples
from transfers import Crossings, Moves, Waits

from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.stored import FORMS
from seekr.memory.reader import Memory
from seekr.methods import Lwf, Objective, Sequential, make_method
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import answer_positions
from seekr.training.order import Slot, Step, StepPlan
from seekr.training.rows import RankSlots, Rows

DERPP = {"name": "derpp", "replay_ratio": 0.25}
ROWS = toy_samples(7)


def rows_of(objective: Objective) -> Rows:
    return Rows(ROWS, objective.memories, 0, objective.signals)


def replayed(objective: Objective, *, filler: bool = False) -> MicroBatch:
    rows = tuple(all_rows(objective))
    return rows_of(objective)[Slot(Step("replay", rows), rows, filler)]


def of_host(objective: Objective) -> list[Tensor]:
    return [chosen for memory in objective.memories for chosen in memory.heads.values()]


def learned(settings: dict[str, Any], folder: Path) -> tuple[Objective, nn.Module]:
    objective, model = two_tasks(make_method(settings), folder)
    return objective, model.requires_grad_(True)


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


SETTINGS = [DERPP, DERPP | {"logit_top_k": None}, DERPP | {"logit_shift": False}]
SETTINGS += [exact(teacher_form=form, query_budget=queries) for form in ("auto", *FORMS) for queries in (None, 5)]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: "-".join(map(str, one.values())))
def test_a_replay_step_is_one_transfer_a_micro_batch(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, model = learned(settings, tmp_path)
    for filler in (False, True):
        batch = replayed(objective, filler=filler)
        with Moves() as moves:
            assert batch.to("meta").weights.device.type == "meta"
        assert moves.count == 1
        with monkeypatch.context() as patched, Crossings(of_host(objective)) as crossings:
            patched.setattr(Memory, "_file", lambda *_: pytest.fail("the loss reads a file"))
            torch.stack(list(objective.replay_loss(model, batch).values())).sum().backward()
        assert crossings.found == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_loss_waits_for_the_device_where_transformers_does_and_nowhere_else(tmp_path: Path, packed: bool) -> None:
    """Where answers are predicted was looked for on the device in every loss."""
    model, rows = by_definition.tiny_llama(), samples()
    lwf = Lwf().start(context(tmp_path / "lwf", model, rows, index=1, stages=[tmp_path / "00"]))
    for objective in (Objective(Sequential()), lwf):
        batch = task_batch(rows, signals=objective.signals)
        batch = with_layout(batch) if packed else batch
        with Waits() as waits:
            objective.task_loss(model, batch)
        assert all(module.startswith("transformers.") for module in waits.found)
    for settings in (DERPP, exact()) if not packed else ():
        objective, model = learned(settings, tmp_path / settings["name"])
        batch = replayed(objective)
        with Waits() as waits:
            objective.replay_loss(model, batch)
        # The blocks of rows are those of a CPU; on a GPU the kernels have none.
        assert all(module.startswith(("transformers.", "seekr.attention.rows")) for module in waits.found)
    with Waits() as waits:
        answer_positions(batch.labels)
        batch.labels[batch.labels > 0].sum().item()
    assert waits.found == ["seekr.modeling.losses", __name__, __name__]


def test_a_transfer_in_the_loss_would_be_seen(tmp_path: Path) -> None:
    objective, model = learned(exact(), tmp_path)
    memory, batch = objective.memories[0], replayed(objective)
    with Crossings(of_host(objective)) as crossings:
        one = {name: tensor[:1] for name, tensor in batch.inputs.items()}
        attention_distillation_loss(model, [memory.attention(0)], one, memory.heads)
    assert crossings.found
    with Crossings([]) as crossings:
        batch.weights * torch.tensor([1.0])
    assert crossings.found == ["aten.mul.Tensor"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [DERPP, exact(teacher_form="top", query_budget=5)], ids=["derpp", "seekr"])
def test_what_travels_is_what_the_memory_holds(tmp_path: Path, settings: dict[str, Any], workers: int) -> None:
    objective, _ = learned(settings, tmp_path)
    rows, sizes = rows_of(objective), tuple(map(len, objective.memories))
    plan = StepPlan(len(ROWS), sizes, 3, seed=0, task=2)
    slots = RankSlots(plan, rows.length, accumulation=1, processes=1, rank=0, epoch=lambda: 0)
    wanted = {"logits": True, "attention": settings["name"] == "seekr"}
    seen = set()
    for batch in DataLoader(rows, batch_sampler=slots, collate_fn=itemgetter(0), num_workers=workers):
        assert len(batch.signals) == len(batch.rows)
        for (source, sample), signals in zip(batch.rows, batch.signals, strict=True):
            expected = objective.memories[source].tensors(sample, **wanted) if source >= 0 else {}
            assert list(signals) == list(expected)
            assert all(same(signals[name], tensor) for name, tensor in expected.items())
            seen.add(source)
    assert seen == {-1, 0, 1}


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"name": "replay", "replay_ratio": 0.25}, set()),
        (DERPP, {"logits"}),
        (DERPP | {"logit_weight": 0.0}, set()),
        (exact(), {"logits", "attention"}),
        (exact(attention_weight="auto"), {"logits", "attention"}),
        (exact(attention_weight=0.0), {"logits"}),
        (exact(logit_weight=0.0), {"attention"}),
    ],
    ids=lambda value: "+".join(sorted(value)) or "nothing" if isinstance(value, set) else str(value),
)
def test_what_is_not_wanted_is_not_read(tmp_path: Path, settings: dict[str, Any], kinds: set[str]) -> None:
    objective, _ = learned(settings, tmp_path)
    found = {name for signals in replayed(objective).signals for name in signals}
    assert {"logits" if name.startswith("logit_") else "attention" for name in found} == kinds


@pytest.mark.parametrize("name", ["lwf", "kl_anchor"])
def test_rows_of_the_task_carry_what_the_model_before_said(tmp_path: Path, name: str) -> None:
    model = by_definition.tiny_llama()
    objective: Any = make_method(name).start(context(tmp_path, model, ROWS, index=1, stages=[tmp_path / "00"]))
    rows = tuple((-1, place) for place in (5, 0, 3))
    recorded = Memory.open(tmp_path / "working" / "responses", verify=False)
    batch = rows_of(objective)[Slot(Step("task", rows), rows, filler=False)]
    for (_, place), signals in zip(rows, batch.signals, strict=True):
        kept = recorded.logits(place)
        assert list(signals) == ["logit_ids", "logit_log_probs"]
        assert same(signals["logit_ids"], kept.ids)
        assert same(signals["logit_log_probs"], kept.log_probs)
    with Crossings([]) as crossings:
        torch.stack(list(objective.task_loss(model, batch).values())).sum().backward()
    assert crossings.found == []


def test_another_process_opens_a_memory_for_itself(tmp_path: Path) -> None:
    """As workers do that are not forked."""
    objective, _ = learned(exact(), tmp_path)
    rows = pickle.loads(pickle.dumps(rows_of(objective)))
    slot = Slot(Step("replay", tuple(all_rows(objective))), tuple(all_rows(objective)), filler=False)
    found, expected = rows[slot].tensors, rows_of(objective)[slot].tensors
    assert list(found) == list(expected)
    assert all(same(found[name], tensor) for name, tensor in expected.items())
