"""What scores.json says already: a score gives way to a new measurement, and to nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from seekr.disk.files import file_digest, has_own_hash, with_own_hash, write_json
from seekr.distributed.processes import is_main, say_once
from seekr.errors import InputError, reason
from seekr.runs.answered_by import ANSWERED_BY
from seekr.runs.log import read_whole
from seekr.scoring.cells import BASE
from seekr.scoring.matrix import ScoreMatrix

Cell = tuple[int, int]
Name = Annotated[str, Field(pattern=r"^(base|\d{1,9})-(general|\d{1,9})$")]
_DIGITS = 10  # Python makes no number of some thousand
_KEPT = ("answers", "removed_answers", ANSWERED_BY)
_MEND = "move it away, and `seekr evaluate` makes scores again from the answers"
_NOT_VOUCHED = "not what was written"


class _Shape(TypedDict, total=False):
    answers: dict[Name, str]
    removed_answers: dict[Name, PositiveInt]
    answered_by: dict[str, str]


_SHAPE = TypeAdapter(_Shape)


@dataclass
class KeptScores:
    """The scores of earlier starts, and of which answers they are.

    Attributes:
        answers: name of a cell → sha256 of the file of its answers as they were scored.
        removed: name of a cell → how many of its answers were taken back since.
        models: name of a row → the model that answered, as `model_of` names it; earlier versions kept none.
        whole: whether the file is what was written; earlier ones had no hash of their own.
    """

    matrix: ScoreMatrix = field(default_factory=ScoreMatrix)
    answers: dict[str, str] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    @classmethod
    def read(cls, path: Path, *, put_aside: bool = True) -> KeptScores:
        """scores.json, nothing where it is not there; one that is damaged, or no file, is put aside, which is said."""
        if not path.exists():
            return cls()
        try:
            return cls.parse(path)
        except InputError:
            if put_aside and is_main():
                names = (path.with_name(f"scores.json.damaged{number or ''}") for number in count())
                aside = next(name for name in names if not os.path.lexists(name))
                path.replace(aside)
                say_once(f"{path} is damaged and was moved to {aside.name}; scores are made again from the answers")
            return cls()

    @classmethod
    def parse(cls, path: Path) -> KeptScores:
        """The same of one that is there. Raises InputError where it cannot be read."""
        content = read_whole(path, _MEND)
        matrix = ScoreMatrix.from_json(content, str(path))
        try:
            kept = _SHAPE.validate_python(content, strict=True)
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"]))
            raise InputError(f"{path}: not the scores of a run; {key}: {reason(error)}; {_MEND}") from None
        answers, removed, models = kept.get("answers", {}), kept.get("removed_answers", {}), kept.get(ANSWERED_BY, {})
        return cls(matrix, answers, removed, models, has_own_hash(content))

    def write(self, path: Path) -> None:
        """As scores.json, at once. One that was not `whole` stays so: no hash vouches for what is taken over of it."""
        kept = zip(_KEPT, (self.answers, self.removed, dict(sorted(self.models.items()))), strict=True)
        content = with_own_hash(self.matrix.to_json() | {key: known for key, known in kept if known})
        write_json(path, content if self.whole else content | {"sha256": _NOT_VOUCHED})

    def scores(self, tasks: list[str], metrics: Mapping[int, str]) -> dict[Cell, float]:
        """What is known of a run of `tasks`, where the metric is still the same; tasks may have come to the end."""
        known = self.matrix.tasks
        if known != tasks[: len(known)]:
            return {}
        columns = [one for one, metric in metrics.items() if one < len(known) and self.matrix.metric(one) == metric]
        cells = {(row, one): self.matrix.score(row, one) for row in range(BASE, len(known)) for one in columns}
        return {cell: score for cell, score in cells.items() if score is not None}

    def are_others(self, path: Path) -> bool:
        """Whether the answers in a file are not those that were scored."""
        scored = self.answers.get(path.stem)
        return scored is not None and path.is_file() and file_digest(path) != scored


def forget_rows(run: Path, first: int) -> None:
    """Drops the scores of models that are to go: those of a row of the matrix, and of all after it."""
    path = run / "scores.json"
    kept = KeptScores.read(path, put_aside=False)
    matrix, tasks = kept.matrix, len(kept.matrix.tasks)
    if not first < tasks:
        return
    matrix.matrix[first:] = [[None] * tasks for _ in range(first, tasks)]
    if matrix.general:
        matrix.general[first + 1 :] = [None] * (tasks - first)
    for known in (kept.answers, kept.removed, kept.models):
        rows = {name: row for name in known if (row := name.partition("-")[0]).isdecimal() and len(row) < _DIGITS}
        for name in [name for name, row in rows.items() if int(row) >= first]:
            del known[name]
    kept.write(path)
