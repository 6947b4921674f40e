"""The score matrix of a run: which cells are wanted, the answers or likelihoods they come from, scores.json."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from seekr.data.finished import read_predictions
from seekr.data.token_rows import answer_tokens
from seekr.disk.files import PRIVATE, file_digest
from seekr.disk.sealed import read_text, write_text
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import is_main, say_once
from seekr.progress import bar
from seekr.runs.answer_lines import Found, are_of, found_in, lines_of, score_of
from seekr.runs.answered_by import model_of
from seekr.runs.answering import Answerer, answering
from seekr.runs.folder import finished_stages, has_weights, stage_folder
from seekr.runs.kept_scores import KeptScores
from seekr.runs.live import LiveLog
from seekr.runs.prepare import RunSpec
from seekr.runs.standing import check_weights
from seekr.scoring.cells import BASE, GENERAL, cell_name, row_name
from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood
from seekr.scoring.matrix import ScoreMatrix

_SAME = 1e-6
_SECONDS = 10.0
"""Between two writings of all scores, while a row of the matrix is filled."""


class ScoreBook:
    """The scores of a prepared run: what was scored before is read, what is missing is generated and kept.

    All processes make one and fill it alike, each answering a part of the prompts; the main one writes.
    """

    def __init__(self, spec: RunSpec, live: LiveLog | None = None) -> None:
        self.spec = spec
        self.live = live
        self.tasks = spec.tasks
        self.columns = spec.columns
        self.scores: dict[tuple[int, int], float] = {}
        self.stale: dict[tuple[int, int], float] = {}
        """Scores whose answers are gone, or are not those that were scored: measured again where the weights are."""
        self.taken_back: set[tuple[int, int]] = set()
        """Those of `stale` that stay: some of their answers were taken back, whose rows would be asked again."""
        self._before = KeptScores.read(spec.run / "scores.json")
        if not self._before.whole:
            say_once(f"{spec.run / 'scores.json'}: not what was written; scores are made again where answers are there")
        finished = len(self.tasks) if spec.joint else len(finished_stages(spec.run))
        there = {row_name(row) for row in range(BASE, finished)}
        self._models = {row: model for row, model in self._before.models.items() if row in there}
        metrics = {column: data.task.metric for column, data in self.columns.items()}
        known = self._before.scores([data.task.name for data in self.tasks], metrics)
        answered = {path.stem for path in (spec.run / "predictions").glob("*.jsonl")}
        if answered and not (spec.run / "scores.json").exists():
            say_once(f"{spec.run / 'scores.json'}: missing; scores are made again from the answers that are there")
        for row, column in product(range(BASE, finished), self.columns):
            if (row, column) in known or cell_name(row, column) in answered:
                self._read(row, column, known.get((row, column)))
        self._written = -math.inf
        self._unwritten = True  # what was read may be other than what scores.json says
        if self.taken_back:
            less = ", ".join(cell_name(*cell) for cell in sorted(self.taken_back))
            say_once(f"predictions: {less} (row-column): some answers were taken back; their scores, of all rows, stay")
        if lost := [cell_name(*it) for it in self.stale.keys() - self.taken_back if self._source(it[0]) is None]:
            say_once(
                f"predictions: {', '.join(lost)} (row-column): the answers that were scored are gone, and so are the "
                "weights; their scores stay"
            )

    def missing(self, cells: str) -> list[tuple[int, int]]:
        """Wanted cells that were not scored yet; tasks without test rows have none."""
        wanted = self.spec.wanted_cells(cells)
        kept = self.taken_back | {cell for cell in self.stale if self._source(cell[0]) is None}
        return [cell for cell in wanted if cell not in self.scores and cell not in kept and self.columns[cell[1]].test]

    def measurable(self, cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of `cells` whose stage is finished and whose weights are still there."""
        there = {row for row in {row for row, _ in cells} if self._source(row) is not None}
        return [cell for cell in cells if cell[0] in there]

    def fill(self, cells: list[tuple[int, int]]) -> None:
        """Generates and scores cells, row by row; answers are on the disk at once, scores soon after."""
        for row in sorted({row for row, _ in cells}):
            columns = [column for r, column in cells if r == row]
            columns = [column for column in columns if not self._copy_from_same_model(row, column)]
            for engine in (False, True):  # one after the other: an engine takes what memory it finds
                own = [column for column in columns if self._by_vllm(column) == engine]
                if own:
                    self._fill_row(row, own, engine=engine)
        if self._unwritten:
            self.write()

    def _fill_row(self, row: int, columns: list[int], *, engine: bool) -> None:
        source = self._source(row)
        weights = None if source in (None, self.spec.config.model) else Path(str(source))
        if weights is not None:
            run, hashed = self.spec.run, self.spec.verify
            agreed(lambda: check_weights(run, weights.parent, hashed=hashed) if is_main() else None)
        with answering(self.spec, weights, engine=engine) as answer:
            for column in columns:
                self._score(answer, row, column)
        self.write()

    def matrix(self) -> ScoreMatrix:
        """Everything scored so far."""
        count, found = range(len(self.tasks)), self.stale | self.scores
        return ScoreMatrix(
            tasks=[data.task.name for data in self.tasks],
            metrics=[data.task.metric if data.test else None for data in self.tasks],
            base=[found.get((BASE, column)) for column in count],
            matrix=[[found.get((row, column)) for column in count] for row in count],
            general=self._general(found),
        )

    def _general(self, found: Mapping[tuple[int, int], float]) -> list[float | None]:
        """What the guard scored; that of a run which has none any more stays."""
        rows = range(BASE, len(self.tasks))
        if GENERAL in self.columns:
            return [found.get((row, GENERAL)) for row in rows]
        before = self._before.matrix.general
        return [*before, *[None] * (len(rows) - len(before))] if before else []

    def write(self) -> None:
        """scores.json, at once."""
        self._unwritten, self._written = False, time.monotonic()
        if is_main():
            answers = {name: digest for name, digest in self._before.answers.items() if self._stays(name)}
            paths = {cell_name(*cell): self._path(*cell) for cell in sorted(self.scores)}
            answers |= {name: file_digest(path) for name, path in paths.items() if path.is_file()}
            removed = {name: count for name, count in self._before.removed.items() if self._stays(name)}
            self._find_models()
            whole = self._before.whole or not (
                self.stale or (GENERAL not in self.columns and self._before.matrix.general)
            )
            kept = KeptScores(self.matrix(), answers, removed, self._models, whole)
            kept.write(self.spec.run / "scores.json")

    def _find_models(self) -> None:
        """Whose the scores are; of those that were there it was looked at when the run was prepared."""
        for row in sorted({row for row, _ in self.scores if row_name(row) not in self._models}):
            base = self.spec.model_fingerprint
            if (model := base if row == BASE else model_of(self._stage(row), base)) is not None:
                self._models[row_name(row)] = model

    def _stage(self, row: int) -> Path:
        stage = self.spec.stages[0 if self.spec.joint else row]
        return stage_folder(self.spec.run, stage.index, stage.name)

    def _stays(self, name: str) -> bool:
        """Whether what is known of a cell is not of this start: its answers are gone, or its guard is."""
        cell = _cell(name)
        return cell in self.stale or cell[1] not in self.columns

    def _by_vllm(self, column: int) -> bool:
        return self.spec.config.vllm is not None and self.columns[column].task.metric != LIKELIHOOD

    def _path(self, row: int, column: int) -> Path:
        return self.spec.run / "predictions" / f"{cell_name(row, column)}.jsonl"

    def _read(self, row: int, column: int, known: float | None) -> None:
        """Takes over what an earlier start wrote: answers to the test rows as they are now, or else the score alone."""
        cell, path, data = (row, column), self._path(row, column), self.columns[column]
        changed = known is not None and self._before.are_others(path)
        if changed:
            say_once(f"{path}: not the answers that were scored; somebody has changed the file")
        elif known is not None and self._is_less(row, column):
            self.stale[cell] = known
            self.taken_back.add(cell)
            return
        else:
            self._read_answers(row, column)
        score = self.scores.get(cell)
        if known is not None and score is None:
            kept = None if column != GENERAL or cell_name(*cell) in self._before.removed else read_predictions(path)
            if kept is not None and not are_of(kept, data.test):
                return  # of another guard
            self.stale[cell] = known
        elif known is not None and score is not None and abs(known - score) > _SAME:
            say_once(f"{path}: these answers score {score:.2f}, and scores.json had {known:.2f} for them; it is mended")

    def _is_less(self, row: int, column: int) -> bool:
        """Whether answers were taken back while the rows given are those that were scored, or are left, or are gone."""
        data, gone = self.columns[column], self._before.removed.get(cell_name(row, column))
        kept = None if gone is None else read_predictions(self._path(row, column))
        if gone is None or kept is None or (column == GENERAL and not kept):  # of another guard, for all we know
            return False
        rows = [(one.prompt_text, one.references) for one in data.test]
        there = all((row["prompt"], row["references"]) in rows for row in kept)
        return data.gone is not None or (there and len(rows) in (len(kept), len(kept) + gone))

    def _read_answers(self, row: int, column: int) -> None:
        path, data = self._path(row, column), self.columns[column]
        kept = read_predictions(path)
        if kept is None or not are_of(kept, data.test):
            return
        try:
            found = found_in(kept, data)
        except (ValueError, KeyError, TypeError, OverflowError):
            return  # of another kind of metric: measured again
        counts = [one.answer_tokens for one in found if isinstance(one, RowLikelihood)]
        if data.gone or not counts or counts == [answer_tokens(sample) for sample in data.test_rows]:
            self._keep_score(row, column, found)

    def _score(self, answer: Answerer, row: int, column: int) -> None:
        data = self.columns[column]
        with bar(f"scoring {data.task.name} {self._after(row)}", len(data.test)) as advance:
            given = answer(column, advance)
        by = {"by": f"vllm {self.spec.vllm_version}"} if self._by_vllm(column) else {}
        lines = [line | by for line in lines_of(data, given, self.spec.tokenizer)]
        if is_main():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            self._path(row, column).parent.mkdir(PRIVATE, exist_ok=True)
            write_text(self._path(row, column), text, encrypted=self.spec.config.encrypt)
        self._keep_score(row, column, found_in(lines, data))
        self._models.pop(row_name(row), None)  # from before a stage was learned again
        self._unwritten = True
        if time.monotonic() - self._written > _SECONDS or cell_name(row, column) in self._before.answers:
            self.write()  # else a start that finds these answers scores them; it has all cells, and is many
        if self.live is not None:
            name = "general ability" if column == GENERAL else f"score/{data.task.name}"
            self.live.score(name, self.scores[row, column], row)
        if column == GENERAL:
            before = "" if row == BASE else f"{(self.stale | self.scores)[BASE, GENERAL]:.1f} → "
            say_once(f"general ability {before}{self.scores[row, column]:.1f} {self._after(row)}")

    def _keep_score(self, row: int, column: int, found: list[Found]) -> None:
        self.stale.pop((row, column), None)
        self.scores[row, column] = score_of(self.columns[column], found)

    def _copy_from_same_model(self, row: int, column: int) -> bool:
        """Skills train nothing: the rows after them are the base model's, whose answers may be there already."""
        for other in range(BASE, len(self.tasks)):
            if (other, column) in self.scores and self._source(other) == self._source(row):
                if is_main():
                    text = read_text(self._path(other, column))
                    write_text(self._path(row, column), text, encrypted=self.spec.config.encrypt)
                self.scores[row, column] = self.scores[other, column]
                self._unwritten = True
                return True
        return False

    def _source(self, row: int) -> str | None:
        """The folder (or hub name) of the model of a row; None = not there, or not any more."""
        spec = self.spec
        if row == BASE or not (spec.joint or self.tasks[row].task.learn):
            return spec.config.model
        if spec.joint and row < len(self.tasks) - 1:
            return None
        folder = self._stage(row)
        return str(folder / "model") if has_weights(folder) else None

    def _after(self, row: int) -> str:
        if row == BASE:
            return "before any task"
        return "after all tasks" if self.spec.joint else f"after {self.tasks[row].task.name}"


def _cell(name: str) -> tuple[int, int]:
    row, _, column = name.partition("-")
    return (BASE if row == "base" else int(row)), (GENERAL if column == "general" else int(column))
