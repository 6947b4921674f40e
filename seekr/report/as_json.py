"""What commands show of runs, for other programs: the values of `--json`, whose keys stay."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from seekr.errors import InputError
from seekr.report.general import general_json
from seekr.runs.run import Run, Stage


def scores_json(run: Run) -> dict[str, Any]:
    """Of `evaluate`: which run it is, and matrix and figures as in scores.json; null = nothing was scored."""
    about = {"run": str(run.folder), "method": run.method, "seed": run.seed}
    return {**about, "scores": None if run.scored is None else run.scored.to_json(), "general": general_json(run)}


def status_json(run: Run) -> dict[str, Any]:
    """Of `status`: the same, and how far each task is; `step` = of the newest checkpoint of one in training."""
    tasks = [asdict(status) for status in run.status()]
    return {**scores_json(run), "finished": run.finished, "tasks": tasks, "attention_weights": run.attention_weights}


def heads_json(run: Run) -> dict[str, Any]:
    """Of `heads`: for each stage that chose some the heads by layer, and the tables [layers][heads] measured on it."""
    stages = [
        {
            "task": stage.name,
            "heads": {str(layer): heads for layer, heads in stage.heads.items()},
            "tables": {name: [_numbers(row) for row in table.tolist()] for name, table in stage.importance.items()},
        }
        for stage in stages_with_heads(run)
    ]
    return {"run": str(run.folder), "stages": stages}


def memory_json(run: Run) -> dict[str, Any]:
    """Of `memory`: what is kept of each task, in numbers."""
    return {"run": str(run.folder), "tasks": kept_of_tasks(run)}


def stages_with_heads(run: Run) -> list[Stage]:
    """Raises InputError where no stage has chosen any."""
    stages = [stage for stage in run.stages if stage.heads]
    if not stages:
        raise InputError(f"{run.folder}: no heads were chosen here; the method seekr chooses some after each task")
    return stages


def kept_of_tasks(run: Run) -> list[dict[str, Any]]:
    """The `Memory.summary()` of every stage that has one. Raises InputError where none has."""
    summaries = [stage.memory.summary() for stage in run.stages if stage.memory is not None]
    if not summaries:
        raise InputError(f"{run.folder}: nothing is kept here; the methods replay, derpp and seekr keep samples")
    return summaries


def _numbers(row: list[float]) -> list[float | None]:
    return [value if isfinite(value) else None for value in row]
