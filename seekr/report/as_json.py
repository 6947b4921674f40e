"""What commands show of runs, for other programs: the values of `--json`, whose keys stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import isfinite
from typing import Any

from seekr.errors import InputError
from seekr.report.general import general_json
from seekr.runs.lost_stages import check_begun
from seekr.runs.run import Run, Stage


def scores_json(run: Run) -> dict[str, Any]:
    """Of `evaluate`: which run it is, and matrix and figures as in scores.json; null = nothing was scored."""
    about = {"run": str(run.folder), "method": run.method, "seed": run.seed}
    return {**about, "scores": None if run.scored is None else run.scored.to_json(), "general": general_json(run)}


def status_json(run: Run) -> dict[str, Any]:
    """Of `status`: the same, and how far each task is; `step` = of the newest checkpoint of one in training."""
    tasks = [asdict(status) for status in run.status()]
    limited = {name: {"replayed_rows": some, "kept_rows": kept} for name, (some, kept) in replayed(run).items()}
    found = {**scores_json(run), "finished": run.finished, "tasks": tasks, "attention_weights": run.attention_weights}
    return found | ({"replay": limited} if limited else {})


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


def stages_with_heads(run: Run) -> list[Stage]:
    """Raises InputError where no stage has chosen any."""
    stages = [stage for stage in run.stages if stage.heads]
    if not stages:
        check_begun(run.folder)
        raise InputError(f"{run.folder}: no heads were chosen here; the method seekr chooses some after each task")
    return stages


def kept_of_tasks(run: Run) -> list[dict[str, Any]]:
    """Of `memory`: the `Memory.summary()` of every stage that has one, and as `replayed` how many of its rows the next
    task replays, where a `replay_limit` leaves some out. Raises InputError where none has.
    """
    from seekr.training.order import StepPlan

    summaries = [stage.memory.summary() for stage in run.stages if stage.memory is not None]
    if not summaries:
        check_begun(run.folder)
        raise InputError(f"{run.folder}: nothing is kept here; the methods replay, derpp and seekr keep samples")
    limit = run.record["config"]["method"].get("replay_limit")
    sizes = tuple(summary["samples"] for summary in summaries)
    if limit is None or sum(sizes) <= limit:
        return summaries
    shares = Counter(m for m, _ in StepPlan(1, sizes, 1, run.seed, len(run.stages), replay_limit=limit).kept)
    return [summary | {"replayed": shares[m]} for m, summary in enumerate(summaries)]


def replayed(run: Run) -> dict[str, tuple[int, int]]:
    """Task → how many kept rows were replayed while it was learned, and of how many, where a limit left some out."""
    found = {stage.name: next((e.replayed for e in stage.log if e.replayed), None) for stage in run.stages}
    return {name: counts for name, counts in found.items() if counts is not None}


def _numbers(row: list[float]) -> list[float | None]:
    return [value if isfinite(value) else None for value in row]
