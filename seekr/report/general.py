"""What became of general ability: that of rows or tasks which a run does not train on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from seekr.report.summary import decimal
from seekr.runs.general_tasks import GeneralChange, general_changes
from seekr.runs.run import Run

GUARD, CHANGE = "general ability", " change"
"""Of rows that no task trains on; and what follows a name for what it changed by."""


def general_lines(run: Run) -> list[str]:
    """Such as "general ability 20.8 → 17.1": of the base model and the newest; nothing where none was measured."""
    change = None if run.scored is None else run.scored.general_change
    lines = [] if change is None else [f"general ability {decimal(change[0])} → {decimal(change[1])}"]
    return lines + [f"general task {change}" for change in task_changes(run)]


def general_numbers(run: Run) -> dict[str, float]:
    """The newest score of each, and its change since the base model, by the heading of a table's column."""
    guard = None if run.scored is None else run.scored.general_change
    found = {} if guard is None else {GUARD: guard}
    found |= {f"general task {one.now.task}": (one.before.score, one.now.score) for one in task_changes(run)}
    numbers = {name: (now, now - before) for name, (before, now) in found.items()}
    return {name + kind: one for name, pair in numbers.items() for kind, one in zip(("", CHANGE), pair, strict=True)}


def digits_of(name: str) -> int:
    """How many decimals a column has: the guard is of 0 to 100, tasks mostly of 0 to 1."""
    return 1 if name.removesuffix(CHANGE) == GUARD else 3


def how_measured(run: Run, name: str) -> str | None:
    """What the guard or a task is measured with, to be compared with another run's; None where it is not."""
    if name == GUARD:
        return None if name not in general_numbers(run) else repr(run.record["config"].get("general"))
    versions = (one.now.version for one in task_changes(run) if f"general task {one.now.task}" == name)
    return next(versions, None)


def task_changes(run: Run) -> list[GeneralChange]:
    """What became of general tasks, in the order in which they were asked for."""
    return general_changes(run.general_scores, [stage.name for stage in run.stages])


def general_json(run: Run) -> dict[str, Any]:
    """The same for `--json`, null = not measured, and every score on a general task."""
    before, now = (run.scored.general_change if run.scored is not None else None) or (None, None)
    return {"before": before, "now": now, "tasks": [asdict(one) for one in run.general_scores]}
