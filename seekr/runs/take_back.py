"""Kept rows found by their text, and taken back: with their teacher signals and the answers that quote them.

What the weights learned of them stays learned. The manifests say that something was removed, not what.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from seekr.disk import file_digest, flush, is_encrypted, read_json, read_text, write_json, write_text
from seekr.errors import InputError, nearest
from seekr.memory.removal import write_without
from seekr.runs.folder import finished_stages
from seekr.runs.lock import locked
from seekr.runs.manifest import rechain
from seekr.runs.run import Run, Stage

_NEW, _OLD, _MARKER = ".memory.partial", ".memory.removed", ".removing.json"


@dataclass(frozen=True)
class KeptRow:
    """A kept row: its task, its number there (from 0), and its text, prompt and answer."""

    task: str
    number: int
    text: str


def kept_rows(run: Run) -> list[KeptRow]:
    """Every row that a run keeps, as text. Raises InputError where no tokenizer or no memory can be read."""
    from seekr.modeling.loading import load_tokenizer

    models = [str(stage.model) for stage in reversed(run.stages) if stage.model is not None]
    tokenizer = load_tokenizer(models[0] if models else run.config.model)
    found = []
    for stage in run.stages:
        memory = stage.memory
        for number in range(0 if memory is None else len(memory)):
            assert memory is not None
            text = tokenizer.decode(memory.encoded(number).input_ids, skip_special_tokens=True)
            found.append(KeptRow(stage.name, number, str(text)))
    return found


def matching(run: Run, text: str) -> list[KeptRow]:
    """The kept rows that hold a text, in any case of its letters."""
    return [row for row in kept_rows(run) if text.casefold() in row.text.casefold()]


def named(run: Run, name: str) -> KeptRow:
    """The kept row that TASK/N names. Raises InputError."""
    rows = kept_rows(run)
    task, _, number = name.rpartition("/")
    there = [row for row in rows if row.task == task]
    if not there:
        tasks = {row.task for row in rows}
        raise InputError(f"--remove {name}: TASK/N is meant, and {task!r} keeps no rows here; {nearest(task, tasks)}")
    if not number.isdecimal() or int(number) >= len(there):
        raise InputError(f"--remove {name}: {task} keeps {len(there)} rows, 0 to {len(there) - 1}")
    return there[int(number)]


def answers_with(run: Run, text: str) -> dict[Path, int]:
    """Files of answers → how many of their lines hold a text, in any case of its letters."""
    found: dict[Path, int] = {}
    for path in sorted((run.folder / "predictions").glob("*.jsonl")):
        count = sum(_holds(line, text) for line in read_text(path).split("\n"))
        found |= {path: count} if count else {}
    return found


def take_back(run: Run, rows: list[KeptRow], text: str | None = None) -> None:
    """Removes kept rows, and the answers that hold `text`, from the folder of a run.

    Stopped in between, the same command goes on. Raises InputError where another process is at work in the folder.
    """
    marker = run.folder / "stages" / _MARKER
    with locked(run.folder):
        tasks = {row.task for row in rows} | set(read_json(marker) if marker.is_file() else ())
        write_json(marker, sorted(tasks))
        for stage in run.stages:
            if numbers := [row.number for row in rows if row.task == stage.name]:
                _remove(stage, numbers)
        today = str(date.today())
        rechain(finished_stages(run.folder), read_json(run.folder / "run.json"), dict.fromkeys(tasks, today))
        if text is not None:
            _remove_answers(run.folder, text)
        marker.unlink()


def settle(run: Run) -> bool:
    """Puts memories back that a removal, killed in between, had moved, and clears up; whether there was one."""
    with locked(run.folder):
        for stage in run.stages:
            old, place = stage.folder / _OLD, stage.folder / "memory"
            if old.is_dir() and not place.is_dir():
                old.rename(place)
            for leftover in (old, stage.folder / _NEW):
                shutil.rmtree(leftover, ignore_errors=True)
    return (run.folder / "stages" / _MARKER).is_file()


def copies(run: Run) -> Iterator[Path]:
    """Other runs that hold the same rows: the one that this run went on from, and those next to it that did from it."""
    source = run.record.get("from")
    if source and (Path(source) / "run.json").is_file():
        yield Path(source)
    for path in sorted(run.folder.resolve().parent.glob("*/run.json")):
        try:
            other = read_json(path).get("from")
        except Exception:  # of somebody else
            continue
        if other and Path(other) == run.folder.resolve():
            yield path.parent


def _remove(stage: Stage, numbers: list[int]) -> None:
    memory, place = stage.memory, stage.folder / "memory"
    assert memory is not None
    write_without(memory, numbers, stage.folder / _NEW)
    flush(stage.folder / _NEW)
    place.rename(stage.folder / _OLD)
    (stage.folder / _NEW).rename(place)
    shutil.rmtree(stage.folder / _OLD)


def _holds(line: str, text: str) -> bool:
    try:
        texts = list(_texts(json.loads(line))) if line.strip() else []
    except ValueError:  # torn
        texts = [line]
    return any(text.casefold() in one.casefold() for one in texts)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _remove_answers(run: Path, text: str) -> None:
    path = run / "scores.json"
    content = read_json(path) if path.is_file() else {}
    for file in sorted((run / "predictions").glob("*.jsonl")):
        lines = [line for line in read_text(file).split("\n") if line.strip()]
        left = [line for line in lines if not _holds(line, text)]
        if len(left) == len(lines):
            continue
        write_text(file, "".join(f"{line}\n" for line in left), encrypted=is_encrypted(file))
        content.setdefault("answers", {})[file.stem] = file_digest(file)
        removed = content.setdefault("removed_answers", {})
        removed[file.stem] = removed.get(file.stem, 0) + len(lines) - len(left)
    if content:
        write_json(path, content)
