"""Rows from where a person keeps them: files, folders, saved data sets, the hub, memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seekr.errors import InputError
from seekr.tasks.conversation import read_template
from seekr.tasks.example import Chat, Example, parse_row
from seekr.tasks.task import Source, Task

Split = Literal["train", "eval", "test"]
NAMES: dict[str, tuple[str, ...]] = {  # what files and data sets call each split
    "train": ("train",),
    "eval": ("eval", "validation", "valid", "dev"),
    "test": ("test",),
}
SUFFIXES = (".json", ".jsonl")

NumberedRow = tuple[str, Any]  # where it stands, for messages; the row


def read_split(task: Task, split: Split, *, seed: int, base_folder: str | Path | None = None) -> list[Example]:
    """Read one split of a task.

    Args:
        seed: decides the shuffle that `train_limit` and `test_limit` (for test and eval) take their rows
            from; together with the task's name and the split it gives the same rows on every machine. Where
            no limit cuts anything the rows stay in the order of the file.
        base_folder: what relative paths start from; None = the current folder.

    Raises:
        InputError: with file and row (counted from 1), for a source that is missing, broken or empty.
    """
    examples = [example for _, example in read_rows(task, split, base_folder=base_folder)]
    limit = task.train_limit if split == "train" else task.test_limit
    if limit is None or limit >= len(examples):
        return examples
    names = [zlib.crc32(text.encode()) for text in (task.name, split)]
    order = np.random.default_rng([seed, *names]).permutation(len(examples))
    return [examples[i] for i in order[:limit]]


def read_rows(task: Task, split: Split, *, base_folder: str | Path | None = None) -> list[tuple[Any, Example]]:
    """Every row of a split as its source has it, beside what is read from it; no limit is looked at.

    Raises InputError as `read_split`.
    """
    source = getattr(task, split)
    if source is None:
        raise InputError(f"task {task.name!r} has no {split} rows; give it {split}: FILE")
    chat = chat_of(task, base_folder=base_folder)
    rows = [
        (row, parse_row(row, where, answers=task.answers, separator=task.separator, chat=chat))
        for where, row in _rows(source, split, f"task {task.name!r}, {split}", Path(base_folder or "."))
    ]
    if not rows:
        place = f", {source}" if isinstance(source, str | Path) else ""
        raise InputError(f"task {task.name!r}, {split}{place}: there are no rows")
    return rows


def one_row(task: Task, split: Split, number: int) -> Example:
    """One row of a split, counted from 1, whatever the others are like. Raises InputError."""
    chat, count = chat_of(task), 0
    for count, (where, row) in enumerate(_rows(getattr(task, split), split, f"{split} rows", Path()), start=1):
        if count == number:
            return parse_row(row, where, answers=task.answers, separator=task.separator, chat=chat)
    raise InputError(f"{getattr(task, split)}: there is no row {number}; it has {count} rows")


def chat_of(task: Task, *, base_folder: str | Path | None = None) -> Chat:
    """How the chat rows of a task are rendered. Raises InputError for a template that cannot be read."""
    template = None
    if task.chat_template is not None:
        file = Path(base_folder or ".") / Path(task.chat_template).expanduser()
        template = read_template(file)
    return Chat(template, task.chat_template_kwargs or {})


def task_from_folder(name: str, path: str | Path, **fields: Any) -> Task:
    """A task from one place: a folder with train, and where there are any, test and eval; or a file of
    training rows.

    `fields` are further fields of `Task` and win over what the folder holds. Raises InputError if nothing is
    there.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"task {name!r}: {path}: no such file or folder")
    if path.is_file():
        return Task(**{"name": name, "train": path, **fields})
    if _split_files(path):
        found = {split: file for split in NAMES if (file := split_file(path, split))}
    else:
        data = _load_folder(path)
        found = {split: path for split in NAMES if _pick(data, split) is not None}
    if "train" not in {**found, **fields}:
        raise InputError(
            f"task {name!r}: {path}: the folder has no training rows; it needs a train.json or train.jsonl"
        )
    return Task(**{"name": name, **found, **fields})


def _rows(source: Source, split: Split, where: str, base: Path) -> Iterable[NumberedRow]:
    if isinstance(source, list):
        return _numbered(where, source)
    path = base / Path(source).expanduser()
    if path.is_file():
        return _rows_of_file(path)
    if path.is_dir():
        return _rows_of_folder(path, split)
    text = str(source)
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or path.suffix in SUFFIXES or text.count("/") != 1:
        raise InputError(f"{where}: {path}: no such file or folder (a data set of the hub is named owner/name)")
    return _numbered(
        text,
        _picked(
            _load_hub(text, f"{where}: {path}: no such file or folder, and no data set of the hub either"),
            split,
            text,
        ),
    )


def _numbered(where: str, rows: Iterable[Any]) -> Iterator[NumberedRow]:
    return ((f"{where}, row {number}", row) for number, row in enumerate(rows, start=1))


def _rows_of_file(path: Path) -> Iterable[NumberedRow]:
    text = text_of_rows(path)
    if path.suffix == ".jsonl":
        return ((where, parse_json(line, path, number)) for where, line, number in numbered_lines(text, path))
    return _numbered(str(path), json_rows(text, path))


def text_of_rows(path: Path) -> str:
    """The text of a .json or .jsonl file. Raises InputError."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: rows are read from .json (one list) or .jsonl (one row a line), not {path.suffix!r}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def json_rows(text: str, path: Path) -> list[Any]:
    """The rows of a .json file. Raises InputError."""
    rows = parse_json(text, path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: a .json file must hold one list of rows, not {type(rows).__name__}")
    return rows


def numbered_lines(text: str, path: Path) -> Iterator[tuple[str, str, int]]:
    """Of JSON Lines: where a row stands, for messages; its text; the number of its line."""
    row = 0
    # Not splitlines(): JSON strings may hold line separators of Unicode as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row += 1
            yield f"{path}, row {row} (line {number})", line, number


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """The value of a text that begins in this line of the file. Raises InputError with the line of the mistake."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line + error.lineno - 1}"
        hint = (
            "; if it has one row a line, name it .jsonl" if error.msg == "Extra data" and path.suffix == ".json" else ""
        )
        raise InputError(f"{where}: broken JSON: {error.msg} (column {error.colno}){hint}") from None
    except RecursionError:
        raise InputError(f"{path}, line {line}: broken JSON: nested too deeply") from None


def split_file(folder: Path, split: str) -> Path | None:
    """The .json or .jsonl file of a split in a folder, by any of the split's names; None if there is none."""
    files = (folder / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _split_files(folder: Path) -> list[Path]:
    return [file for split in NAMES if (file := split_file(folder, split))]


def _rows_of_folder(folder: Path, split: Split) -> Iterable[NumberedRow]:
    if file := split_file(folder, split):
        return _rows_of_file(file)
    if files := _split_files(folder):
        held = ", ".join(file.name for file in files)
        raise InputError(f"{folder}: no {split}.json or {split}.jsonl in this folder, only {held}")
    return _numbered(str(folder), _picked(_load_folder(folder), split, str(folder)))


def _load_folder(folder: Path) -> Any:
    """What `save_to_disk` of the datasets library left, a Dataset or a dict of them by split; or as `_load_hub`."""
    import datasets

    if not any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        return _load_hub(str(folder), f"{folder}: no train.json or train.jsonl, and no data set that can be loaded")
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow and datasets raise all kinds for torn files; the user sees one line
        raise InputError(f"{folder}: the saved data set cannot be loaded: {_first_line(error)}") from None


def _load_hub(name: str, where: str) -> Any:
    """The splits of a data set of the hub, `owner/name[:configuration]`, or of a local folder laid out like one."""
    import datasets

    repository, _, configuration = (name, "", "") if Path(name).is_dir() else name.partition(":")
    try:
        return datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the clients of the hub raise all kinds; the user sees one line
        raise InputError(f"{where}: {_first_line(error)}") from None


def _pick(data: Any, split: str) -> Any | None:
    """The rows of a split. A Dataset without splits is the training rows, or whatever split it is named for."""
    if not isinstance(data, dict):
        return data if split == "train" else None
    return next((data[name] for name in NAMES[split] if name in data), None)


def _picked(data: Any, split: Split, where: str) -> Any:
    rows = _pick(data, split) if isinstance(data, dict) else data
    if rows is None:
        raise InputError(f"{where}: the data set has no split {split!r}, only {', '.join(map(str, data))}")
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
