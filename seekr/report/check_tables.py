"""What `seekr tasks check` shows: rows, tokens, and what a person should know of them in a line each."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from seekr.data.checking import FolderCheck, Lengths, SplitCheck, TaskCheck
from seekr.errors import some
from seekr.report.terminal import plain_table

_SHOWN = 3  # of a long list, before "and 97 more"


def rows_table(check: FolderCheck) -> Table:
    """A line a split: its rows and their faults; a blank cell is a zero."""
    table = plain_table(
        "Rows",
        "twice: the same row again; other answer: the same prompt again, with another answer; in train, in test: rows "
        "whose prompt stands there too, and in brackets those whose answer does as well",
        texts=["task"],
        words=["split"],
        numbers=("rows", "broken", "empty\nanswer", "twice", "other\nanswer", "in train", "in test"),
    )
    for task, name, split in _splits(check):
        counts = (len(split.broken), split.empty_answers, split.repeated, split.contradicting)
        shared = [split.shared.get(other) for other in ("train", "test")]
        table.add_row(
            task,
            name,
            f"{split.rows:,}",
            *(f"{count:,}" if count else "" for count in counts),
            *(f"{both.prompts:,} ({both.rows:,})" if both is not None and both.prompts else "" for both in shared),
        )
    return table


def tokens_table(check: FolderCheck) -> Table:
    """A line a split: lengths of prompts and answers in tokens, and how many the limits cut."""
    table = plain_table(
        "Tokens",
        "answers with their end token; 95%: so many rows are no longer; cut: – where no limit is given",
        texts=["task"],
        words=["split"],
        numbers=[head for kind in ("prompt", "answer") for head in (f"{kind}\nmedian", "\n95%", "\nmax", "\ncut")],
    )
    for task, name, split in _splits(check):
        if (tokens := split.tokens) is not None:
            table.add_row(
                task, name, *_lengths(tokens.prompts, tokens.cut_prompts), *_lengths(tokens.answers, tokens.cut_answers)
            )
    return table


def findings(check: FolderCheck) -> Iterator[str]:
    """What the tables cannot show: what is missing, which eval is test, which rows are broken and why."""
    if check.missing:
        yield f"missing: {', '.join(check.missing)}"
    if check.others:
        yield f"not of the preset {check.preset}: {some(check.others, 2 * _SHOWN)}"
    if same := [task.name for task in check.tasks if task.eval_is_test]:
        yield f"eval is test, row by row: {', '.join(same)}"
    for task in check.tasks:
        for name, split in task.splits.items():
            if split.tokens is not None and split.tokens.long_answers is not None:
                yield f"{task.name}, {name}: {split.tokens.long_answers}"
            yield from split.broken[:_SHOWN]
            if len(split.broken) > _SHOWN:
                yield f"… and {len(split.broken) - _SHOWN:,} more broken rows of this split"
    for task in check.tasks:
        for name, split in task.splits.items():
            yield from (f"{task.name}, {name}: {note}" for note in split.notes)
    if not any(_faults(task) for task in check.tasks) and not check.missing:
        yield "no fault found"


def _faults(task: TaskCheck) -> bool:
    return task.eval_is_test or any(
        split.broken
        or split.empty_answers
        or split.repeated
        or split.contradicting
        or any(both.prompts for both in split.shared.values())
        or (split.tokens is not None and split.tokens.long_answers is not None)
        for split in task.splits.values()
    )


def _splits(check: FolderCheck) -> Iterator[tuple[str, str, SplitCheck]]:
    """Task (next to its first split only), split, what was found."""
    for task in check.tasks:
        for position, (name, split) in enumerate(task.splits.items()):
            yield "" if position else task.name, name, split


def _lengths(lengths: Lengths, cut: int | None) -> list[str]:
    numbers = (lengths.median, lengths.p95, lengths.longest)
    return [*(f"{number:,}" for number in numbers), "–" if cut is None else f"{cut:,}" if cut else ""]
