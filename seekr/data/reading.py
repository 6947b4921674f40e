"""Examples from where a person keeps rows: files, folders, saved data sets, the hub, memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from seekr.data.conversation import read_template
from seekr.data.example import Chat, Example, parse_row
from seekr.data.files import NumberedRow, format_of, rows_of_file
from seekr.data.folders import (
    NAMES,
    Split,
    is_saved,
    load_saved,
    nothing_in,
    open_hub,
    pick,
    rows_of_folder,
    rows_of_hub,
    split_file,
    split_files,
    splits_of_folder,
)
from seekr.data.task import IN_MEMORY, Source, Task
from seekr.disk.files import user_path
from seekr.errors import InputError


def read_split(task: Task, split: Split, *, seed: int) -> list[Example]:
    """Read one split of a task.

    Args:
        seed: decides the shuffle that `train_limit` and `test_limit` (for test and eval) take their rows
            from; together with the task's name and the split it gives the same rows on every machine. Where
            no limit cuts anything the rows stay in the order of the file.

    Raises:
        InputError: with file and row (counted from 1), for a source that is missing, broken or empty.
    """
    examples = [example for _, example in read_rows(task, split)]
    limit = task.train_limit if split == "train" else task.test_limit
    if limit is None or limit >= len(examples):
        return examples
    names = [zlib.crc32(text.encode()) for text in (task.name, split)]
    order = np.random.default_rng([seed, *names]).permutation(len(examples))
    return [examples[i] for i in order[:limit]]


def read_rows(task: Task, split: Split) -> list[tuple[Any, Example]]:
    """Every row of a split as its source has it, with what is read from it; no limit is looked at.

    Raises InputError as `read_split`.
    """
    source = getattr(task, split)
    if source is None:
        raise InputError(f"task {task.name!r} has no {split} rows; give it {split}: FILE")
    chat = chat_of(task)
    rows = [
        (row, read_row(row, where, answers=task.answers, separator=task.separator, chat=chat))
        for where, row in _rows(source, split, f"task {task.name!r}, {split}")
    ]
    if not rows:
        place = f", {source}" if isinstance(source, str | Path) else ""
        raise InputError(f"task {task.name!r}, {split}{place}: there are no rows")
    return rows


def one_row(task: Task, number: int) -> Example:
    """One training row, counted from 1, whatever the others are like. Raises InputError."""
    chat, count = chat_of(task), 0
    for count, (where, row) in enumerate(_rows(task.train, "train", "train rows"), start=1):
        if count == number:
            return read_row(row, where, answers=task.answers, separator=task.separator, chat=chat)
    raise InputError(f"{task.train}: there is no row {number}; it has {count} rows")


def chat_of(task: Task) -> Chat:
    """How the chat rows of a task are rendered. Raises InputError for a template that cannot be read."""
    template = None if task.chat_template is None else read_template(task.chat_template)
    return Chat(template, task.chat_template_kwargs or {})


def read_row(row: Any, where: str, **options: Any) -> Example:
    """`parse_row` of what a file holds, whose texts must be text. Raises InputError."""
    if isinstance(row, InputError):
        raise row
    example = parse_row(row, where, **options)
    texts = {item.name: getattr(example, item.name) for item in fields(example) if item.name != "source"}
    texts["chat_template_kwargs"] = dict(example.chat.variables)
    for name in sorted(texts, key=lambda name: name != "messages"):  # a chat row's other texts are made of them
        _check_text(texts[name], "keys" if name == "unread" else name.removesuffix("_text"), where)
    return example


def _check_text(value: Any, name: str, where: str) -> None:
    """Raises InputError for half of a surrogate pair, which no tokenizer and no file takes."""
    if isinstance(value, str):
        if not value.isascii() and (place := _lone_surrogate(value)) is not None:
            raise InputError(
                f"{where}: {name} holds half of a character (\\u{ord(value[place]):04x}, character {place + 1}), as is "
                "left of an emoji that was cut in two; write it whole or take it out"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, f"a key of {name}", where)
            _check_text(item, f"{name}.{key}", where)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check_text(item, f"{name}[{place}]", where)


def _lone_surrogate(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def task_from_folder(name: str, path: str | Path, **fields: Any) -> Task:
    """A task from one place: a folder with train, and where there are any, test and eval; or a file of
    training rows.

    `fields` are further fields of `Task` and win over what the folder holds. Raises InputError if nothing is
    there.
    """
    path = user_path(path)
    if not path.exists():
        raise InputError(f"task {name!r}: {path}: no such file or folder")
    if path.is_file():
        return Task(**{"name": name, "train": path, **fields})
    if held := splits_of_folder(path):
        found = {split: split_file(path, split) or path for split in held}
    elif split_files(path, "train"):
        found = {"train": path}
    else:
        data = load_saved(path) if is_saved(path) else open_hub(str(path), nothing_in(path))
        found = {split: path for split in NAMES if pick(data, split) is not None}
    if "train" not in {**found, **fields}:
        raise InputError(
            f"task {name!r}: {path}: the folder has no training rows; it needs a train.json or train.jsonl"
        )
    return Task(**{"name": name, **found, **fields})


def _rows(source: Source, split: Split, where: str) -> Iterable[NumberedRow]:
    if isinstance(source, list):
        return ((f"{where}, row {number}", row) for number, row in enumerate(source, start=1))
    text = str(source)
    if text.endswith(IN_MEMORY):
        raise InputError(
            f"{where}: these rows were given in Python and are not on the disk; go on with seekr.learn(...) there"
        )
    path = user_path(source)
    if path.is_file():
        return rows_of_file(path)
    if path.is_dir():
        return rows_of_folder(path, split)
    plainly_a_path = isinstance(source, Path) or text.startswith((".", "/", "~")) or format_of(text) is not None
    if plainly_a_path or text.count("/") != 1:
        raise InputError(f"{where}: {path}: no such file or folder (a data set of the hub is named owner/name)")
    return rows_of_hub(text, split, f"{where}: {path}: no such file or folder, and no data set of the hub either")
