"""Numbers with how sure they are: of one run by its test rows, of several seeds by these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seekr.report.forgotten import changes
from seekr.report.row_scores import error_of_cell
from seekr.report.summary import MethodSummary, decimal
from seekr.runs.run import Run
from seekr.scoring.uncertainty import half_interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `seeds` runs. `error`: of one run the standard error over its test rows, of several half of the 95%
    interval over the seeds; None = not known."""

    value: float
    error: float | None
    seeds: int = 1

    def __str__(self) -> str:
        return decimal(self.value) if self.error is None else f"{decimal(self.value)} ± {decimal(self.error)}"

    @property
    def source(self) -> str:
        """What `error` is over."""
        return "seeds" if self.seeds > 1 else "rows"


def measured(summary: MethodSummary, field: str) -> Estimate | None:
    """One of the numbers drawn from the score matrix, by its name in scores.json; None where no run has it."""
    having = [(run, value) for run in summary.runs if (value := run.measure(field)) is not None]
    if not having:
        return None
    if len(having) == 1:
        run, value = having[0]
        return Estimate(value, _error_by_rows(run, field))
    return _over_seeds([value for _, value in having])


def scored(summary: MethodSummary, after: int, task: int, *, by_rows: bool = True) -> Estimate | None:
    """A score of the matrix; None where a run that counts has not measured it. `by_rows`: whether answers are read for
    the error of one run's."""
    runs = summary.counted
    known = [score for run in runs if (score := run.scores.matrix[after][task]) is not None]
    if len(known) < len(runs) or not known:
        return None
    if len(known) > 1:
        return _over_seeds(known)
    return Estimate(known[0], error_of_cell(runs[0], after, task) if by_rows else None)


def _over_seeds(values: Sequence[float]) -> Estimate:
    return Estimate(math.fsum(values) / len(values), half_interval(values), len(values))


def _error_by_rows(run: Run, field: str) -> float | None:
    """Of a mean over tasks, whose test rows are drawn apart from each other; None where one task's is not known."""
    last = len(run.scores.tasks) - 1
    scored_tasks = [task for task, metric in enumerate(run.scores.metrics) if metric is not None]
    if field == "overall_performance":
        errors, count = [error_of_cell(run, last, task) for task in scored_tasks], len(scored_tasks)
    elif field.startswith("backward_transfer"):
        errors = [change.error for place, change in enumerate(changes(run)) if place in scored_tasks and place < last]
        count = len(errors) + ("all_tasks" in field)
    else:
        return None
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / count if known and len(known) == len(errors) else None
