"""The continual-learning matrix: what each task scored after each task, and the numbers drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seekr.errors import InputError, kind_of
from seekr.scoring.cells import BASE, GENERAL
from seekr.scoring.likelihood import LIKELIHOOD

Score = float | None  # 0..100; None = not measured
_LISTS = ("tasks", "metrics", "base", "matrix", "general")


@dataclass
class ScoreMatrix:
    """Scores of a run of T tasks: `matrix[i][j]` = a_ij of task j after task i was learned, `base[j]` = b_j
    before the first.

    `general` is the likelihood of rows that no task trains on: of the base model, then after each task; empty = the run
    has none. A task with metric None is never scored (it has no test rows): it keeps its row and column, and no number
    counts it. Each number is None until every cell that it needs was measured. Indices count from 0; the
    formulas below, as in the papers, from 1.
    """

    tasks: list[str] = field(default_factory=list)
    metrics: list[str | None] = field(default_factory=list)
    base: list[Score] = field(default_factory=list)
    matrix: list[list[Score]] = field(default_factory=list)
    general: list[Score] = field(default_factory=list)

    def score(self, row: int, column: int) -> Score:
        """Of a cell, BASE and GENERAL included."""
        if column == GENERAL:
            return self.general[row + 1] if self.general else None
        return self.base[column] if row == BASE else self.matrix[row][column]

    def metric(self, column: int) -> str | None:
        return LIKELIHOOD if column == GENERAL else self.metrics[column]

    @property
    def general_change(self) -> tuple[float, float] | None:
        """The general ability of the base model, and its newest; None = not measured."""
        newest = next((score for score in reversed(self.general[1:]) if score is not None), None)
        return None if newest is None or self.general[0] is None else (self.general[0], newest)

    @property
    def overall_performance(self) -> Score:
        """OP = mean over j of a_Tj (Chaudhry et al. 2018)."""
        return _mean([self.matrix[-1][j] for j in self._scored()])

    @property
    def backward_transfer(self) -> Score:
        """BWT = sum over j<T of (a_Tj - a_jj), divided by T-1 (Lopez-Paz and Ranzato 2017)."""
        return _mean(self._gains())

    @property
    def backward_transfer_over_all_tasks(self) -> Score:
        """The same sum divided by T, as TRACE's and SEEKR's code has it."""
        mean, count = _mean(self._gains()), len(self._gains())
        return None if mean is None else mean * count / (count + 1)

    @property
    def forgetting(self) -> Score:
        """Mean over j<T of (max over i<T of a_ij, measured cells) - a_Tj (Chaudhry et al. 2018)."""
        losses: list[Score] = []
        for j in self._past():
            before = [row[j] for row in self.matrix[:-1] if row[j] is not None]
            losses.append(_difference(max(before, default=None), self.matrix[-1][j]))  # type: ignore[type-var]
        return _mean(losses)

    @property
    def forward_transfer(self) -> Score:
        """Mean over j>=2 of a_{j-1,j} - b_j (Lopez-Paz and Ranzato 2017): what a task gains from those before it."""
        return _mean([_difference(self.matrix[j - 1][j], self.base[j]) for j in self._scored() if j > 0])

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "tasks": list(self.tasks),
            "metrics": list(self.metrics),
            "base": list(self.base),
            "matrix": [list(row) for row in self.matrix],
            "overall_performance": self.overall_performance,
            "backward_transfer": self.backward_transfer,
            "backward_transfer_over_all_tasks": self.backward_transfer_over_all_tasks,
            "forgetting": self.forgetting,
            "forward_transfer": self.forward_transfer,
            **({"general": list(self.general)} if self.general else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "scores.json") -> ScoreMatrix:
        """Back from `to_json`, the numbers drawn again. Raises InputError, naming `where`, if the shapes do not fit."""
        if not isinstance(content, Mapping):
            raise InputError(
                f"{where}: not the scores of a run, but {kind_of(content)}; the file was changed by hand or torn"
            )
        lists = {"general": [], **content}
        if wrong := [name for name in _LISTS if not isinstance(lists.get(name), list)]:
            raise InputError(f"{where}: not the scores of a run: {', '.join(wrong)} is missing or no list")
        if not all(isinstance(row, list) for row in lists["matrix"]):
            raise InputError(f"{where}: not the scores of a run: a row of the matrix is no list")
        tasks, metrics, base, general = (list(lists[name]) for name in ("tasks", "metrics", "base", "general"))
        matrix = [list(row) for row in lists["matrix"]]
        count = len(tasks)
        cells = [*base, *general, *(cell for row in matrix for cell in row)]
        if {len(metrics), len(base), len(matrix), *map(len, matrix), len(general or tasks) - bool(general)} - {count}:
            raise InputError(f"{where}: the lists do not fit the {count} tasks; the file was changed by hand or torn")
        if not all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells):
            raise InputError(f"{where}: a score is neither a number nor null; the file was changed by hand or torn")
        if not all(isinstance(name, str) for name in [*tasks, *(metric for metric in metrics if metric is not None)]):
            raise InputError(f"{where}: tasks and metrics are no names; the file was changed by hand or torn")
        return cls(tasks, metrics, base, matrix, general)

    def _scored(self) -> list[int]:
        return [j for j, metric in enumerate(self.metrics) if metric is not None]

    def _past(self) -> list[int]:
        return [j for j in self._scored() if j < len(self.tasks) - 1]

    def _gains(self) -> list[Score]:
        return [_difference(self.matrix[-1][j], self.matrix[j][j]) for j in self._past()]


def _difference(first: Score, second: Score) -> Score:
    return None if first is None or second is None else first - second


def _mean(values: list[Score]) -> Score:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
