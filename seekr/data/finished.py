"""What is left of a task once it is learned: its stage says what it was, and its answers which rows it was asked.

Its training files may be changed, moved or deleted then, and its test file deleted: nothing here reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seekr.data.encoding import EncodingSummary
from seekr.data.example import Example
from seekr.data.task import Task
from seekr.disk.files import parse_json, read_json
from seekr.disk.sealed import read_text
from seekr.scoring.cells import column_name


@dataclass(frozen=True)
class FinishedTask:
    """A learned task, as its stage describes it.

    Attributes:
        identity: what may not change of it, see `TaskData.identity`.
        summary: what became of its training rows.
        predictions: the folder of the run's answers.
        column: the task's place in the matrix.
    """

    identity: dict[str, Any]
    summary: EncodingSummary
    predictions: Path
    column: int

    def asked(self, task: Task) -> tuple[list[Example], list[list[str]]]:
        """The test rows of the task by the answers to them, prompts as text, and what those were compared with; none
        where there are no answers.
        """
        paths = sorted(self.predictions.glob(f"*-{column_name(self.column)}.jsonl"))
        answered = {path: read_predictions(path) or [] for path in paths}
        path = max(answered, key=lambda it: len(answered[it]), default=None)  # some may have been taken back of others
        rows = [] if path is None else answered[path]
        examples = [
            Example(row["prompt"], row["references"][0], row["references"], str(path), separator=task.separator)
            for row in rows
        ]
        return examples, [row.get("compared", row["references"]) for row in rows]


def finished_tasks(run: Path, stages: Sequence[Path], order: Sequence[str]) -> dict[str, FinishedTask]:
    """Name → what the finished `stages` of a run say of it, for the tasks in `order` that they hold."""
    known = {field.name for field in fields(EncodingSummary)}
    found = {}
    for stage in stages:
        about = read_json(stage / "stage.json")
        for name, identity in about["identity"]["tasks"].items():
            if name in order:
                counts = {key: count for key, count in about["rows"][name].items() if key in known}
                summary = EncodingSummary(**counts)
                found[name] = FinishedTask(identity, summary, run / "predictions", order.index(name))
    return found


def read_predictions(path: Path) -> list[dict[str, Any]] | None:
    """The lines of a file of answers or likelihoods; None where there is none, or it was torn from outside.

    Raises InputError where they are encrypted and cannot be decrypted.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError):
        return None
    try:
        rows = [parse_json(line) for line in text.split("\n") if line]
        whole = all(
            isinstance(row["prompt"], str)
            and ("log_likelihood" in row or isinstance(row["prediction"], str))
            and _are_texts(row["references"])
            and _are_texts(row.get("compared", row["references"]))
            for row in rows
        )
    except (ValueError, KeyError, TypeError):
        return None
    return rows if whole else None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
