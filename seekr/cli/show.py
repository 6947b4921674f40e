"""`seekr tasks show`: one row of a file as a tokenizer's model would be trained on it, and asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seekr.config.task_words import task_keys


def show(source: Path, words: Sequence[str], *, model: str, row: int, max_length: int | None) -> None:
    """Prints a row, from 1, of a file or a folder's train; `words` are `key=value` of a task. Raises InputError."""
    from seekr.data import Task
    from seekr.data.answer_lengths import enough_tokens
    from seekr.data.reading import one_row, read_split
    from seekr.data.showing import show_row
    from seekr.modeling.loading import load_tokenizer
    from seekr.report.row_view import print_row
    from seekr.report.tables import console

    task = Task("shown", train=source, **task_keys(words, without=("train", "test", "eval")))
    example = one_row(task, "train", row)
    tokenizer = load_tokenizer(model)
    new_tokens = task.max_new_tokens
    if new_tokens is None:
        new_tokens = enough_tokens(read_split(task, "train", seed=0), tokenizer)
    print_row(show_row(example, tokenizer, max_length, new_tokens), console())
