"""What a run forgot: each task's score when it was learned and its score now, and the answers that were lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from seekr.errors import InputError
from seekr.report.row_scores import rows_of_cell
from seekr.runs.run import Run
from seekr.scoring.uncertainty import error_of_rows, standard_error

HELD, SLIPPED, PARTLY, FORGOTTEN = "held", "slipped", "partly forgotten", "forgotten"
UNKNOWN, NEW, NOTHING = "not scored", "just learned", "had nothing"
MAX_DROP = 5.0
"""Points that a task may lose, where `--max-drop` says nothing else."""
NOISE = 1.0
"""Points that a drop may have by chance where its standard error is not known."""


@dataclass(frozen=True)
class Lost:
    """A test row that was answered better when its task was learned."""

    prompt: str
    right: tuple[str, ...]
    before: str
    now: str


@dataclass(frozen=True)
class Change:
    """What became of a task since it was learned; scores are 0 to 100, `now` is the newest.

    `error`: the standard error of the drop over the task's test rows, each compared with itself; None = the answers are
    not there, or the metric is no mean over rows.
    """

    task: str
    metric: str | None
    before: float | None
    now: float | None
    error: float | None
    lost: tuple[Lost, ...]
    """The largest loss first."""
    new: bool = False
    """Whether it was not scored again since."""

    @property
    def drop(self) -> float | None:
        return None if self.before is None or self.now is None or self.new else self.before - self.now

    @property
    def noise(self) -> float:
        """What a drop may be by chance: twice its standard error."""
        return NOISE if self.error is None else 2 * self.error

    @property
    def verdict(self) -> str:
        """had nothing: it scored 0 and still does; held: the drop is within chance; slipped: less than a tenth of what
        there was; forgotten: half of it."""
        if self.drop is None or self.before is None:
            return NEW if self.new and self.now is not None else UNKNOWN
        if self.drop <= self.noise:
            return HELD if self.before or self.now else NOTHING
        share = self.drop / self.before
        return SLIPPED if share < 0.1 else PARTLY if share < 0.5 else FORGOTTEN

    def over(self, most: float) -> bool:
        """Whether more than `most` points were lost, and not by chance."""
        return self.drop is not None and self.drop > max(most, self.noise)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "drop": self.drop, "verdict": self.verdict}


def changes(run: Run) -> list[Change]:
    """A change for each task and skill, in the order of the matrix: from when it was learned to its newest score.

    Raises InputError where nothing was scored or all was learned at once, and where an answer file is torn.
    """
    scores = run.scores
    if run.joint:
        raise InputError(f"{run.folder}: joint learns all tasks at once, so none was there before the others")
    found = []
    for place, (task, metric) in enumerate(zip(scores.tasks, scores.metrics, strict=True)):
        rows = [row for row in range(place, len(scores.tasks)) if scores.matrix[row][place] is not None]
        newest = rows[-1] if rows else place
        before, now = scores.matrix[place][place], scores.matrix[newest][place]
        error, lost = _compared(run, place, newest) if newest != place else (None, ())
        found.append(Change(task, metric, before, now, error, lost, new=newest == place))
    return found


def changes_over_seeds(runs: Sequence[Run]) -> list[Change]:
    """The same of runs that differ in their seed only: mean scores, and the error of the mean drop.

    That has two parts: the test rows, which all seeds share, so that their error does not shrink with more seeds, and
    the seeds themselves. Raises as `changes`.
    """
    if len(runs) == 1:
        return changes(runs[0])
    return [_mean_change(seeds) for seeds in zip(*map(changes, runs), strict=True)]


def _mean_change(seeds: Sequence[Change]) -> Change:
    drops = [change.drop for change in seeds if change.drop is not None]
    by_seeds = standard_error(drops) if len(drops) == len(seeds) else None
    by_rows = [change.error for change in seeds if change.error is not None]
    rows = fmean(by_rows) if len(by_rows) == len(seeds) else 0.0
    error = None if by_seeds is None else math.hypot(by_seeds, rows) or None
    before, now = (_mean([getattr(change, name) for change in seeds]) for name in ("before", "now"))
    return Change(seeds[0].task, seeds[0].metric, before, now, error, (), any(change.new for change in seeds))


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fmean(known) if len(known) == len(scores) else None


def _compared(run: Run, place: int, newest: int) -> tuple[float | None, tuple[Lost, ...]]:
    then, later = rows_of_cell(run, place, place), rows_of_cell(run, newest, place)
    if then is None or later is None or len(then) != len(later):
        return None, ()
    before, now = run.answers(place, place), run.answers(newest, place)
    if len(then) < 2 or any(old.prompt != new.prompt for old, new in zip(before, now, strict=True)):
        return None, ()
    drops = [old - new for old, new in zip(then, later, strict=True)]
    worst = sorted((row for row, drop in enumerate(drops) if drop > 0), key=lambda row: -drops[row])
    lost = tuple(
        Lost(now[row].prompt, now[row].references, before[row].prediction, now[row].prediction) for row in worst
    )
    return error_of_rows(drops), lost
