"""What scores.json says already: a score gives way to a new measurement, and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seekr.disk import file_digest, parse_json, read_text
from seekr.distributed.processes import is_main
from seekr.errors import InputError, say
from seekr.scoring import ScoreMatrix
from seekr.scoring.cells import BASE

Cell = tuple[int, int]


@dataclass
class KeptScores:
    """The scores of earlier starts, and of which answers they are.

    Attributes:
        answers: name of a cell → sha256 of the file of its answers as they were scored.
        removed: name of a cell → how many of its answers were taken back since.
    """

    matrix: ScoreMatrix = field(default_factory=ScoreMatrix)
    answers: dict[str, str] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, put_aside: bool = True) -> KeptScores:
        """scores.json, nothing where it is not there; one that is damaged, or no file, is put aside, which is said."""
        if not path.exists():
            return cls()
        try:
            content = parse_json(read_text(path))
            known = ({**content.get(key, {})} for key in ("answers", "removed_answers"))
            return cls(ScoreMatrix.from_json(content, str(path)), *known)
        except (InputError, OSError, ValueError, TypeError, AttributeError):
            if put_aside and is_main():
                aside = path.with_name("scores.json.damaged")
                path.replace(aside)
                say_once(f"{path} is damaged and was moved to {aside.name}; scores are made again from the answers")
            return cls()

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


def say_once(text: str) -> None:
    """A line on stderr, by one process."""
    if is_main():
        say(text)
