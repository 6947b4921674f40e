"""Folders of runs, read back into plain data: what the page and the terminal's tables are made from.

A run that is still going on is read as far as it is: its finished stages and the scores measured so far. A
file that is there but cannot be read is an `InputError`, since a table made from half of the data would mislead.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from seekr.attention.weight import mean_drift
from seekr.errors import InputError
from seekr.runs.folder import finished_stages
from seekr.scoring import ScoreMatrix

_NOT_PARTS = {
    "step",
    "kind",
    "loss",
    "learning_rate",
    "gradient_share",
    "grad_norm",
    "attention_weight",
    "gradient_norms",
}
_EVALUATE = "delete it and run `seekr evaluate {run}`"
_RELEARN = "bring it back from a copy, or learn this run again"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One optimizer step: the loss parts as they entered the loss, and now and then their gradient shares."""

    step: int
    kind: str
    parts: dict[str, float]
    gradient_share: dict[str, float]
    attention_weight: float | None = None


@dataclass(frozen=True, slots=True)
class StageData:
    """One finished task of a run. `tables` holds sensitivity, change, drift and importance, each [layers, heads]."""

    index: int
    name: str
    tables: dict[str, np.ndarray]
    heads: dict[int, tuple[int, ...]]
    log: tuple[LogEntry, ...]

    @property
    def trained(self) -> bool:
        """False for a skill that the model already had."""
        return bool(self.log)


@dataclass(frozen=True, slots=True)
class Answer:
    """One scored answer."""

    prompt: str
    prediction: str
    references: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the prediction, trimmed, is one of the references, whatever the metric of its task."""
        return self.prediction.strip() in {reference.strip() for reference in self.references}


@dataclass(frozen=True)
class RunData:
    """A run folder: `record` is run.json whole, `scores` is None until something was scored."""

    folder: Path
    method: str
    seed: int
    record: dict[str, Any]
    scores: ScoreMatrix | None
    stages: tuple[StageData, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.scores.tasks) if self.scores else tuple(stage.name for stage in self.stages)

    @property
    def joint(self) -> bool:
        """All tasks learned at once: the upper bound, not a continual learner."""
        return self.method == "joint"

    @property
    def planned(self) -> int:
        """How many stages the run has once it is finished."""
        return 1 if self.joint else len(self.record["config"]["tasks"])

    @property
    def finished(self) -> bool:
        return len(self.stages) >= self.planned

    @property
    def final(self) -> dict[str, float | None]:
        """The score of every task once all are learned, None = not measured."""
        return dict(zip(self.scores.tasks, self.scores.matrix[-1], strict=True)) if self.scores else {}

    @property
    def attention_weights(self) -> dict[str, float]:
        """Task → the weight that the attention loss had in its replay steps."""
        last = {
            stage.name: next((e.attention_weight for e in reversed(stage.log) if e.attention_weight), None)
            for stage in self.stages
        }
        return {name: weight for name, weight in last.items() if weight is not None}

    @property
    def attention_drift(self) -> float | None:
        """By how many nats the chosen heads' attention drifts while a task is learned; None = not measured."""
        return mean_drift((stage.tables["drift"], stage.heads) for stage in self.stages if "drift" in stage.tables)

    @cached_property
    def steps(self) -> dict[str, int]:
        """Optimizer steps taken over all stages, by kind."""
        counts = {"task": 0, "replay": 0}
        for stage in self.stages:
            for entry in stage.log:
                counts[entry.kind] = counts.get(entry.kind, 0) + 1
        return counts

    @cached_property
    def cells(self) -> frozenset[tuple[int, int]]:
        """The cells (after task i, task j) whose answers were kept."""
        names = (path.stem.split("-") for path in (self.folder / "predictions").glob("*-*.jsonl"))
        return frozenset((int(i), int(j)) for i, j in names if i.isdecimal() and j.isdecimal())

    def measure(self, name: str) -> float | None:
        """One of the numbers drawn from the matrix, by its name in scores.json."""
        return getattr(self.scores, name) if self.scores and self.scores.tasks else None

    def answers(self, after: int, task: int) -> list[Answer]:
        """What was generated for one cell of the matrix: nothing where likelihoods were measured instead.

        Raises InputError where the file is torn.
        """
        path = self.folder / "predictions" / f"{after}-{task}.jsonl"
        mend = _EVALUATE.format(run=self.folder)
        answers = []
        for line, row in _read_lines(path, mend):
            if "log_likelihood" in row:
                continue
            try:
                references = row.get("compared") or (row["references"] if "references" in row else row["reference"])
                texts = (references,) if isinstance(references, str) else tuple(references)
                answers.append(Answer(row["prompt"], row["prediction"], texts))
            except (KeyError, TypeError) as error:
                raise InputError(f"{path}, line {line}: no prompt, prediction and reference; {mend}") from error
        return answers


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders meant by `paths`: each itself, or those below it (methods of a demo, seeds of a run).

    In the order given, within a folder by name, each once. Raises InputError where a path holds no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        own = [path / "run.json"] if (path / "run.json").exists() else []
        records = own or sorted([*path.glob("*/run.json"), *path.glob("*/*/run.json")])
        if not records:
            raise InputError(f"{path}: no run.json there or below; give the output_dir of a `seekr learn`")
        for record in records:
            found.setdefault(record.parent.resolve(), record.parent)
    return list(found.values())


def read_runs(paths: Sequence[Path]) -> list[RunData]:
    """Every run of `find_runs(paths)`, read."""
    return [read_run(folder) for folder in find_runs(paths)]


def read_run(folder: Path) -> RunData:
    """Reads one run folder, its answers only when asked for. Raises InputError for a missing or torn file."""
    folder = Path(folder)
    path = folder / "run.json"
    record = _read_json(path, _RELEARN)
    try:
        method, seed = str(record["identity"]["method"]["name"]), int(record["identity"]["seed"])
        len(record["config"]["tasks"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the record of a run; {_RELEARN}") from error
    stages = tuple(_read_stage(stage) for stage in finished_stages(folder))
    return RunData(folder, method, seed, record, _read_scores(folder), stages)


def _read_scores(folder: Path) -> ScoreMatrix | None:
    path = folder / "scores.json"
    if not path.exists():
        return None
    return ScoreMatrix.from_json(_read_json(path, _EVALUATE.format(run=folder)), str(path))


def _read_stage(folder: Path) -> StageData:
    index, _, name = folder.name.partition("-")
    tables: dict[str, np.ndarray] = {}
    heads: dict[int, tuple[int, ...]] = {}
    path = folder / "importance.safetensors"
    if path.exists():
        try:
            tables = {name: table for name, table in sorted(load_file(path).items()) if table.ndim == 2}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {_RELEARN}") from error
    path = folder / "heads.json"
    if path.exists():
        try:
            raw = _read_json(path, _RELEARN)
            heads = {int(layer): tuple(sorted(map(int, chosen))) for layer, chosen in raw.items()}
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not {{layer: [heads]}}; {_RELEARN}") from error
    log = folder / "log.jsonl"
    entries = tuple(_log_entry(log, line, row) for line, row in _read_lines(log, _RELEARN)) if log.exists() else ()
    return StageData(int(index), name, tables, dict(sorted(heads.items())), entries)


def _log_entry(path: Path, line: int, row: dict[str, Any]) -> LogEntry:
    try:
        return LogEntry(
            int(row["step"]),
            str(row["kind"]),
            {name: float(value) for name, value in row.items() if name not in _NOT_PARTS and value is not None},
            dict(row.get("gradient_share", {})),
            None if row.get("attention_weight") is None else float(row["attention_weight"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}, line {line}: not a step of a log ({error!r}); {_RELEARN}") from error


def _read_json(path: Path, mend: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {mend}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: broken JSON ({error.msg}); {mend}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error


def _read_lines(path: Path, mend: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers, counted from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: broken JSON ({error.msg}); {mend}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; {mend}")
        rows.append((number, row))
    return rows
