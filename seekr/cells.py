"""The score matrix of a run: which cells are wanted, the answers that they come from, scores.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr.disk import write_atomically, write_json
from seekr.finished import read_predictions
from seekr.processes import is_main
from seekr.progress import bar
from seekr.scoring import METRICS, ScoreMatrix
from seekr.stages import has_weights, stage_folder

if TYPE_CHECKING:
    from seekr.answering import Answer
    from seekr.preparation import Prepared
    from seekr.tasks import Example

BASE = -1
"""The row of the base model, before anything was learned."""


def wanted_cells(cells: str, tasks: int, *, joint: bool = False) -> list[tuple[int, int]]:
    """The (row, column) pairs of a run of `tasks` tasks: row i = after task i, column j = task j, BASE = base model.

    "paper" is the diagonal and the last row, "seen" every task so far after each task, "all" every task after each
    task and before the first. A joint run has one stage, after all tasks: the last row ("all": and BASE).
    """
    last = tasks - 1
    rows = [last] if joint else range(tasks)
    wanted = [
        (row, column)
        for row in rows
        for column in range(tasks)
        if row == last or column == row or cells == "all" or (cells == "seen" and column < row)
    ]
    return [(BASE, column) for column in range(tasks)] + wanted if cells == "all" else wanted


def cell_name(row: int, column: int) -> str:
    """What the file of a cell's answers is called."""
    return f"{'base' if row == BASE else row}-{column}"


class ScoreBook:
    """The scores of a prepared run: what was scored before is read, what is missing is generated and kept.

    All processes make one and fill it alike, each answering a part of the prompts; the main one writes.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.tasks = prepared.tasks
        self.scores: dict[tuple[int, int], float] = {}
        for row in range(BASE, len(self.tasks)):
            for column in range(len(self.tasks)):
                self._read(row, column)

    def missing(self, cells: str) -> list[tuple[int, int]]:
        """Wanted cells that were not scored yet; tasks without test rows have none."""
        wanted = wanted_cells(cells, len(self.tasks), joint=self.prepared.joint)
        return [cell for cell in wanted if cell not in self.scores and self.tasks[cell[1]].test]

    def measurable(self, cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of `cells` whose stage is finished and whose weights are still there."""
        return [cell for cell in cells if self._source(cell[0]) is not None]

    def fill(self, cells: list[tuple[int, int]]) -> None:
        """Generates and scores cells, row by row; each is on the disk as soon as it is scored."""
        from seekr.answering import answering

        for row in sorted({row for row, _ in cells}):
            columns = [column for r, column in cells if r == row]
            columns = [column for column in columns if not self._copy_from_same_model(row, column)]
            if columns:
                source = self._source(row)
                weights = None if source in (None, self.prepared.config.model) else Path(str(source))
                with answering(self.prepared, weights) as answer:
                    for column in columns:
                        self._score(answer, row, column)
        self.write()

    def matrix(self) -> ScoreMatrix:
        """Everything scored so far."""
        count = range(len(self.tasks))
        return ScoreMatrix(
            tasks=[data.task.name for data in self.tasks],
            metrics=[data.task.metric if data.test else None for data in self.tasks],
            base=[self.scores.get((BASE, column)) for column in count],
            matrix=[[self.scores.get((row, column)) for column in count] for row in count],
        )

    def write(self) -> None:
        """scores.json, at once."""
        if is_main():
            write_json(self.prepared.run / "scores.json", self.matrix().to_json())

    def _path(self, row: int, column: int) -> Path:
        return self.prepared.run / "predictions" / f"{cell_name(row, column)}.jsonl"

    def _read(self, row: int, column: int) -> None:
        """Takes over answers from an earlier start, if they are answers to the test rows as they are now."""
        path, data = self._path(row, column), self.tasks[column]
        kept = read_predictions(path)
        if kept is None:
            return
        asked = [(row["prompt"], row["references"]) for row in kept]
        if asked == [(example.prompt_text, example.references) for example in data.test]:
            self._keep_score(row, column, [row["prediction"] for row in kept])

    def _score(self, answer: Answer, row: int, column: int) -> None:
        data = self.tasks[column]
        with bar(f"scoring {data.task.name} {self._after(row)}", len(data.test)) as advance:
            predictions = answer(column, advance)
        version = self.prepared.vllm_version
        by = {} if version is None else {"by": f"vllm {version}"}
        lines = (_line(example, prediction) | by for example, prediction in zip(data.test, predictions, strict=True))
        if is_main():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(self._path(row, column), text)
        self._keep_score(row, column, predictions)
        self.write()

    def _keep_score(self, row: int, column: int, predictions: list[str]) -> None:
        data = self.tasks[column]
        references = [example.references for example in data.test]
        prompts = [example.prompt_text for example in data.test]
        self.scores[row, column] = METRICS[data.task.metric](predictions, references, prompts)

    def _copy_from_same_model(self, row: int, column: int) -> bool:
        """Skills train nothing: the rows after them are the base model's, whose answers may be there already."""
        for other in range(BASE, len(self.tasks)):
            if (other, column) in self.scores and self._source(other) == self._source(row):
                if is_main():
                    write_atomically(self._path(row, column), self._path(other, column).read_text(encoding="utf-8"))
                self.scores[row, column] = self.scores[other, column]
                return True
        return False

    def _source(self, row: int) -> str | None:
        """The folder (or hub name) of the model of a row; None = not there, or not any more."""
        prepared = self.prepared
        if row == BASE or not (prepared.joint or self.tasks[row].task.learn):
            return prepared.config.model
        if prepared.joint and row < len(self.tasks) - 1:
            return None
        stage = prepared.stages[0 if prepared.joint else row]
        folder = stage_folder(prepared.run, stage.index, stage.name)
        return str(folder / "model") if has_weights(folder) else None

    def _after(self, row: int) -> str:
        if row == BASE:
            return "before any task"
        return "after all tasks" if self.prepared.joint else f"after {self.tasks[row].task.name}"


def _line(example: Example, prediction: str) -> dict[str, Any]:
    return {"prompt": example.prompt_text, "prediction": prediction, "references": example.references}
