"""What a page is about, in a line each: model, data, dates, and the commands that go on from there."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from seekr.disk.files import read_json
from seekr.errors import RunError
from seekr.report.check_run import NO_ANSWERS
from seekr.report.folding import MANY, few
from seekr.report.row_scores import error_of_cell
from seekr.report.summary import base_name
from seekr.runs.run import Run
from seekr.scoring.cells import BASE, wanted_cells

_FEW = 3
"""Runs that are named; of more the number says it."""


def facts(runs: Sequence[Run], given: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Name and text; `given` are the paths of `seekr report`. What no run says is left out."""
    yield "Model", _joined(base_name(run) for run in runs)
    if data := _data(runs):
        yield "Data", data
    days = sorted({str(run.record["clock"])[:10] for run in runs if "clock" in run.record})
    if days:
        versions = _joined(str(run.record.get("versions", {}).get("seekr", "")) for run in runs)
        yield "Begun", " to ".join(dict.fromkeys((days[0], days[-1]))) + (f", seekr {versions}" if versions else "")
    yield "Command", f"seekr report {shlex.join(map(str, given))}"


def _data(runs: Sequence[Run]) -> str:
    learned = [rows for run in runs for rows in _rows_learned(run)]
    metrics = _joined(metric for run in runs if run.scored for metric in run.scored.metrics if metric)
    ends = dict.fromkeys((min(learned), max(learned))) if learned else ()
    rows = f"{' to '.join(f'{number:,}' for number in ends)} rows to learn of each task" if learned else ""
    return "; ".join(filter(None, (rows, f"scored by {metrics}" if metrics else "")))


def _rows_learned(run: Run) -> Iterator[int]:
    for stage in run.stages:
        if not stage.trained:
            continue
        try:
            yield from [int(task["rows"]) for task in read_json(stage.folder / "stage.json")["rows"].values()]
        except (RunError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue  # older, or damaged: the command names it then


def _joined(names: Iterable[str]) -> str:
    return ", ".join(filter(None, dict.fromkeys(names)))


def weights_of(run: Run) -> list[str]:
    """Such as "sort 12.3": the attention weight of each task's replay steps."""
    return [f"{task} {weight:.3g}" for task, weight in run.attention_weights.items()]


def unseen(runs: Sequence[Run]) -> Iterator[str]:
    """Where a task's score between its own stage and the last one is not known: how to see when it was lost."""
    dropped: list[str] = []
    left: list[str] = []
    for run in runs:
        if run.joint or not run.scored:
            continue
        scores, stages = run.scored, run.stages
        rows = {
            row
            for row, column in wanted_cells("seen", len(scores.tasks))
            if row < len(stages) and scores.metrics[column] is not None and scores.matrix[row][column] is None
        }
        gone = any(stages[row].trained and stages[row].model is None for row in rows)
        (dropped if gone else left if rows else []).append(str(run.folder))
    if left:
        one, of = (shlex.quote(left[0]), "") if len(left) == 1 else ("RUN", f" (of {_few(left)})")
        yield f"when a task was lost is not measured yet: `seekr evaluate {one} --cells seen` does it{of}"
    if dropped:
        yield f"when a task was lost was not measured, and the weights are gone (keep_stages): {_few(dropped)}"


def unsure(runs: Sequence[Run]) -> Iterator[str]:
    """Tasks that have scores without an error."""
    found: dict[str, list[str]] = {}
    for run in runs:
        count = len(run.scores.tasks)  # of many, no other scores are shown with an error than these
        cells = wanted_cells("paper" if count > MANY else "all", count)
        scored = [
            (after, task) for after, task in cells if after != BASE and run.scores.matrix[after][task] is not None
        ]
        tasks = {task for after, task in scored if error_of_cell(run, after, task) is None}
        if tasks:
            unknown = few([run.scores.tasks[task] for task in sorted(tasks)])
            found.setdefault(", ".join(unknown), []).append(str(run.folder))
    for names, folders in found.items():
        yield f"no ± for {names} in {_few(folders)}: {NO_ANSWERS}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW else f"{len(names)} runs"
