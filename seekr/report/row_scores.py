"""What the test rows of a score scored one by one, read from a run's answers."""

from __future__ import annotations

from functools import lru_cache
from statistics import fmean

from seekr.runs.run import Run
from seekr.scoring.metrics import METRICS, row_scores
from seekr.scoring.uncertainty import error_of_rows

_SAME = 0.01
"""Points that a score may differ by from the mean over its rows, by rounding."""


def rows_of_cell(run: Run, after: int, task: int) -> tuple[float, ...] | None:
    """What each answer to `task` after `after` scores by itself, 0..100, in the order of the rows.

    None where the answers are not there, or are not those that were scored, or the metric may be no mean over rows:
    likelihood, a user's own. Raises InputError where the file is torn.
    """
    metric, score = run.scores.metrics[task], run.scores.matrix[after][task]
    path = run.folder / "predictions" / f"{after}-{task}.jsonl"
    if metric not in METRICS or score is None or not path.is_file():
        return None
    rows = _rows(run, after, task, str(metric), path.stat().st_mtime_ns)
    return rows if rows and abs(fmean(rows) - score) <= _SAME else None


def error_of_cell(run: Run, after: int, task: int) -> float | None:
    """The standard error of a score of the matrix over its rows; None where they are not known."""
    rows = rows_of_cell(run, after, task)
    return None if rows is None else error_of_rows(rows)


@lru_cache(maxsize=512)
def _rows(run: Run, after: int, task: int, metric: str, stamp: int) -> tuple[float, ...]:  # noqa: ARG001  if changed
    answers = run.answers(after, task)
    if not answers:
        return ()
    texts = ([one.prediction for one in answers], [one.references for one in answers], [one.prompt for one in answers])
    return tuple(row_scores(metric, *texts))
