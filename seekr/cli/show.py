"""`seekr tasks show`: one row of a file as a tokenizer's model would be trained on it, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr.config.yaml import parse_yaml
from seekr.errors import InputError, nearest

if TYPE_CHECKING:
    from seekr.data import Task


def show(source: Path, words: Sequence[str], *, model: str, row: int, max_length: int | None) -> None:
    """Prints a row, from 1, of a file or a folder's train; `words` are `key=value` of a task. Raises InputError."""
    from seekr.data.answer_lengths import enough_tokens
    from seekr.data.reading import one_row, read_split
    from seekr.data.showing import show_row
    from seekr.modeling.loading import load_tokenizer
    from seekr.report.row_view import print_row
    from seekr.report.tables import console

    task = task_of(source, words)
    example = one_row(task, "train", row)
    tokenizer = load_tokenizer(model)
    new_tokens = task.max_new_tokens
    if new_tokens is None:
        new_tokens = enough_tokens(read_split(task, "train", seed=0), tokenizer)
    print_row(show_row(example, tokenizer, max_length, new_tokens), console())


def task_of(source: Path, words: Sequence[str]) -> Task:
    """A task whose training rows are those of a file. Raises InputError."""
    from seekr.data import Task

    valid = {field.name for field in fields(Task)} - {"name", "train", "test", "eval"}
    keys: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word!r}: keys of a task read key=value, such as answers=last")
        if key not in valid:
            raise InputError(f"{word!r}: unknown key {key!r}; {nearest(key, valid)}")
        keys[key] = parse_yaml(value, repr(word)) if value else ""
    return Task("shown", train=source, **keys)
