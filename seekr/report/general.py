"""What became of general ability: that of rows or tasks which a run does not train on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from seekr.report.summary import decimal
from seekr.runs.general_tasks import GeneralChange, general_changes, read_general
from seekr.runs.run import Run


def general_lines(run: Run) -> list[str]:
    """Such as "general ability 20.8 → 17.1": of the base model and the newest; nothing where none was measured."""
    change = None if run.scored is None else run.scored.general_change
    lines = [] if change is None else [f"general ability {decimal(change[0])} → {decimal(change[1])}"]
    return lines + [f"general task {change}" for change in task_changes(run)]


def task_changes(run: Run) -> list[GeneralChange]:
    """What became of general tasks, in the order in which they were asked for."""
    return general_changes(read_general(run.folder), [stage.name for stage in run.stages])


def general_json(run: Run) -> dict[str, Any]:
    """The same for `--json`, null = not measured, and every score on a general task."""
    before, now = (run.scored.general_change if run.scored is not None else None) or (None, None)
    return {"before": before, "now": now, "tasks": [asdict(one) for one in read_general(run.folder)]}
