"""Files of a stage as they are read: its log and the answers of a cell, with the line that is torn, and its heads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from seekr.disk.files import parse_json
from seekr.disk.regular import OddFile, regular
from seekr.disk.sealed import read_text
from seekr.errors import InputError

EVALUATE = "delete it and run `seekr evaluate {run}`"
RELEARN = "bring it back from a copy, or learn this run again"

_NOT_PARTS = {
    "step", "kind", "loss", "learning_rate", "gradient_share", "grad_norm", "attention_weight", "gradient_norms",
    "replayed_rows", "kept_rows",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One optimizer step: the loss parts as they entered the loss, and now and then their gradient shares.

    `replayed`: of a replay step how many of the kept rows have their turn, and of how many; None = all.
    """

    step: int
    kind: str
    parts: dict[str, float]
    gradient_share: dict[str, float]
    attention_weight: float | None = None
    replayed: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One scored answer."""

    prompt: str
    prediction: str
    references: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the prediction, trimmed, is one of the references, whatever the metric of its task."""
        return self.prediction.strip() in {reference.strip() for reference in self.references}


def read_log(path: Path) -> tuple[LogEntry, ...]:
    """Every optimizer step of a stage; none where nothing was trained. Raises InputError naming the line."""
    if not path.exists():
        return ()
    return tuple(_log_entry(path, line, row) for line, row in _read_lines(path, RELEARN))


def read_answers(path: Path, mend: str) -> list[ScoredAnswer]:
    """What was generated for one cell of the matrix: nothing where likelihoods were measured instead.

    Raises InputError where the file is torn.
    """
    answers = []
    for line, row in _read_lines(path, mend):
        if "log_likelihood" in row:
            continue
        try:
            references = row.get("compared") or (row["references"] if "references" in row else row["reference"])
            texts = (references,) if isinstance(references, str) else tuple(references)
            answer = ScoredAnswer(row["prompt"], row["prediction"], texts)
            if not all(isinstance(text, str) for text in (answer.prompt, answer.prediction, *texts)):
                raise TypeError("not a text")
            answers.append(answer)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}, line {line}: no prompt, prediction and reference; {mend}") from error
    return answers


def read_heads(path: Path) -> dict[int, list[int]]:
    """Chosen heads, layer -> heads, ascending; none where the method chooses none. Raises InputError."""
    if not os.path.lexists(path):
        return {}
    try:
        found = {int(layer): sorted(map(int, chosen)) for layer, chosen in read_whole(path, RELEARN).items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not {{layer: [heads]}}; {RELEARN}") from error
    if not all(found.values()):
        raise InputError(f"{path}: a layer without heads; {RELEARN}")
    return dict(sorted(found.items()))


def read_importance(path: Path, heads: Callable[[], Mapping[int, Sequence[int]]]) -> dict[str, np.ndarray]:
    """Tables of [layers, heads] by name, which have the chosen `heads`; none where none was measured.

    Raises InputError.
    """
    if not os.path.lexists(path):
        return {}
    try:
        found = {name: table for name, table in sorted(load_file(regular(path)).items()) if table.ndim == 2}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {RELEARN}") from error
    named = [(layer, head) for layer, kept in heads().items() for head in kept]
    sizes = {table.shape for table in found.values()}
    if any(not (0 <= layer < size[0] and 0 <= head < size[1]) for size in sizes for layer, head in named):
        raise InputError(f"{path}: heads.json names heads that its tables do not have; {RELEARN}")
    return found


def _log_entry(path: Path, line: int, row: dict[str, Any]) -> LogEntry:
    try:
        return LogEntry(
            int(row["step"]),
            str(row["kind"]),
            _numbers({name: value for name, value in row.items() if name not in _NOT_PARTS}),
            _numbers(row.get("gradient_share", {})),
            None if row.get("attention_weight") is None else float(row["attention_weight"]),
            (int(row["replayed_rows"]), int(row["kept_rows"])) if "replayed_rows" in row else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}, line {line}: not a step of a log ({error!r}); {RELEARN}") from error


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    """Those that are known."""
    return {name: float(value) for name, value in found.items() if value is not None}


def read_whole(path: Path, mend: str) -> Any:
    """A JSON file. Raises InputError with what to do about it."""
    try:
        return parse_json(read_text(path))
    except OddFile as error:
        raise InputError(f"{error}; {mend}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {mend}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: broken JSON ({error.msg}); {mend}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error


def _read_lines(path: Path, mend: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers, counted from 1."""
    try:
        text = read_text(path)
    except OddFile as error:
        raise InputError(f"{error}; {mend}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON string
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: broken JSON ({error}); {mend}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; {mend}")
        rows.append((number, row))
    return rows
