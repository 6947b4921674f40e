"""Kept rows found by their text, and taken back: with their teacher signals and the answers that quote them.

What the weights learned of them stays learned. The manifests say that something was removed, not what.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from seekr.data.task import IN_MEMORY
from seekr.data.tokenizing import decode
from seekr.disk.files import clear_folder, file_digest
from seekr.disk.sealed import is_encrypted, read_text, write_text
from seekr.errors import InputError, RunError, nearest
from seekr.memory.removal import write_without
from seekr.modeling.loading import load_tokenizer
from seekr.runs.exchange import Removed, exchange, place_for_rest
from seekr.runs.folder import finished_stages, runs_below
from seekr.runs.kept_scores import KeptScores
from seekr.runs.manifest import link_of, missing_manifest, rechain
from seekr.runs.record_schema import read_shape
from seekr.runs.run import Run
from seekr.runs.standing import check_part

T = TypeVar("T")


@dataclass(frozen=True)
class KeptRow:
    """A kept row: its task, its number there (from 0), and its text, prompt and answer."""

    task: str
    number: int
    text: str


def kept_rows(run: Run) -> list[KeptRow]:
    """Every row that a run keeps, as text. Raises InputError where no tokenizer or no memory can be read."""
    models = [str(stage.model) for stage in reversed(run.stages) if stage.model is not None]
    tokenizer = load_tokenizer(models[0] if models else run.config.model)
    found = []
    for stage in run.stages:
        memory = stage.memory
        for number in range(0 if memory is None else len(memory)):
            assert memory is not None
            found.append(
                KeptRow(stage.name, number, decode(memory.encoded(number).input_ids, tokenizer, special=False))
            )
    return found


def matching(run: Run, text: str) -> list[KeptRow]:
    """The kept rows that hold a text, in any case of its letters."""
    return [row for row in kept_rows(run) if _plain(text) in _plain(row.text)]


def named(run: Run, name: str) -> KeptRow:
    """The kept row that TASK/N names. Raises InputError."""
    rows = kept_rows(run)
    task, _, number = name.rpartition("/") if "/" in name else (name, "", "")
    there = [row for row in rows if row.task == task]
    if not there:
        tasks = {row.task for row in rows}
        raise InputError(f"--remove {name}: TASK/N is meant, and {task!r} keeps no rows here; {nearest(task, tasks)}")
    if not number.isdecimal() or len(number) > 9 or int(number) >= len(there):
        rows_of = f"{task} keeps {len(there)} rows, {task}/0 to {task}/{len(there) - 1}"
        raise InputError(f"--remove {name}: TASK/N is meant, and {rows_of}")
    return there[int(number)]


def answers_with(run: Run, text: str) -> dict[Path, int]:
    """Files of answers → how many of their lines hold a text, in any case of its letters."""
    found: dict[Path, int] = {}
    for path in sorted((run.folder / "predictions").glob("*.jsonl")):
        count = sum(_holds(line, text) for line in read_text(path).split("\n"))
        found |= {path: count} if count else {}
    return found


def take_back(run: Run, rows: list[KeptRow], text: str | None, say: Callable[[Removed], None]) -> None:
    """Removes kept rows, and the answers that hold `text`, from the folder of a run that is locked: see `exchange`.

    What a stage or a copy that was stopped had written goes too. `say` is called once all is done, before it counts as
    done. Raises InputError, nothing removed, where what is to be written again is not what was written.
    """
    if (lost := missing_manifest(finished_stages(run.folder), run.record)) is not None:
        raise InputError(f"{lost}: missing; bring it back from a copy first: those after it are written again")
    _clear_leftovers(run.folder)
    with place_for_rest(run.folder) as left:
        for stage in run.stages:
            if numbers := [row.number for row in rows if row.task == stage.name]:
                check_part(stage.folder, "memory/")
                assert stage.memory is not None
                write_without(stage.memory, numbers, left / "stages" / stage.folder.name / "memory")
        rechain(finished_stages(run.folder), left / "stages", day=str(date.today()))
        answers = 0 if text is None else _without_answers(run, text, left)
        exchange(run.folder, Removed([f"{row.task}/{row.number}" for row in rows], answers), say)


def _clear_leftovers(run: Path) -> None:
    """What a process that was killed had begun to write or to remove; no other one is at work."""
    for pattern in (".*.partial", "predictions/.*.partial", "stages/.*.partial", "stages/.*.removed"):
        for path in run.glob(pattern):
            clear_folder(path)


class Copies(NamedTuple):
    """Other runs that may hold what was taken back: `found` are of one beginning, however many `--from` lie in between,
    `alike` learned the same files of rows by another seed or method. `looked`: the folders that were looked through,
    three levels deep. `gone`: runs that were gone on from and are not where they were, or cannot be looked into.
    """

    found: list[Path]
    alike: list[Path]
    looked: list[Path]
    gone: list[Path]


def copies(run: Run) -> Copies:
    """A run names the one that it went on from, none names those that went on from it."""
    own, files, here = link_of((), run.record), _files(run.record), run.folder.resolve()
    found: dict[Path, Any] = {here: run.record}
    gone: dict[Path, None] = {}
    alike: dict[Path, None] = {}
    looked: list[Path] = []
    while new := [place for place in map(_lies_in, [*found, *gone]) if place not in looked]:
        looked.append(new[0])
        below: list[Path] = _tried(lambda: runs_below(looked[-1]), [])
        for folder in below:
            record = _record(folder)
            if record and link_of((), record) == own:
                found.setdefault(folder.resolve(), record)
            elif files & _files(record):
                alike.setdefault(folder.resolve())
        sources = [Path(str(record["from"])) for record in found.values() if record.get("from")]
        gone |= dict.fromkeys(path for path in sources if not _tried((path / "run.json").is_file, False))
        found |= {path: _record(path) for path in sources if path not in gone and path not in found}
    return Copies([folder for folder in found if folder != here], list(alike), looked, list(gone))


def _lies_in(run: Path) -> Path:
    """The folder in which runs next to this one lie, that of its other seeds among them."""
    return run.parents[1] if run.name.startswith("seed-") else run.parent


def _record(run: Path) -> dict[str, Any]:
    """run.json; empty where it is of somebody else."""
    nothing: dict[str, Any] = {}
    return _tried(lambda: read_shape(run / "run.json"), nothing)


def _tried(look: Callable[[], T], otherwise: T) -> T:
    """What is there, `otherwise` where nobody may look, or no folder can be called so."""
    try:
        return look()
    except (OSError, InputError, RunError):
        return otherwise


def _files(record: Mapping[str, Any]) -> set[str]:
    """The files and data sets that the tasks of a run.json name; of rows in memory nothing can be known."""
    tasks = record["config"]["tasks"] if record else []
    named = {str(task.get(split)) for task in tasks for split in ("train", "test")}
    return {name for name in named if IN_MEMORY not in name} - {"None"}


def _holds(line: str, text: str) -> bool:
    try:
        texts = list(_texts(json.loads(line))) if line.strip() else []
    except ValueError:  # torn
        texts = [line]
    return any(_plain(text) in _plain(one) for one in texts)


def _plain(text: str) -> str:
    """What two texts have in common that read alike: letters of any case and form (NFKC), any white space."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _without_answers(run: Run, text: str, left: Path) -> int:
    """Writes the files of answers that hold a text without them, and scores.json for these. Returns how many go."""
    path, removed = run.folder / "scores.json", {}
    kept = KeptScores.parse(path) if path.is_file() else None
    for file, count in answers_with(run, text).items():
        lines = [line for line in read_text(file).split("\n") if line.strip() and not _holds(line, text)]
        new, cell = left / "predictions" / file.name, file.stem
        write_text(new, "".join(f"{line}\n" for line in lines), encrypted=is_encrypted(file))
        if kept and kept.answers.get(cell) == file_digest(file):  # else not what was scored, as `seekr verify` says
            kept.answers[cell] = file_digest(new)
        removed[cell] = count
    if removed and kept:
        kept.removed |= {cell: kept.removed.get(cell, 0) + count for cell, count in removed.items()}
        kept.write(left / "scores.json")
    return sum(removed.values())
