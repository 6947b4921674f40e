"""The rows that settings are chosen on: each task's eval split, or rows held out of its train. Never test."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seekr.data.example import Example
from seekr.data.reading import read_rows
from seekr.data.task import Task
from seekr.disk.files import PRIVATE, read_json, write_json
from seekr.errors import InputError

Rows = list[Any]

_MEND = "hold rows of their train out instead: --holdout 0.1, or a number of rows"


@dataclass(frozen=True)
class TuningRows:
    """What a task is scored on while settings are chosen, and what it is trained on if that is not its own train.

    `scored` None: the task has neither eval nor test rows, and is never scored. `left_out`: rows that stand in test
    too, and so were not taken.
    """

    scored: Rows | None = None
    train: Rows | None = None
    left_out: int = 0

    def task(self, task: Task) -> Task:
        """`task` with these rows: its test is what it is scored on."""
        return replace(task, test=self.scored, eval=None, train=task.train if self.train is None else self.train)

    def files(self, folder: Path) -> dict[str, tuple[Path, Rows]]:
        """Where the rows are put, by the split that they take the place of."""
        held = {"train": ("train.json", self.train), "test": ("eval.json", self.scored)}
        return {split: (folder / name, rows) for split, (name, rows) in held.items() if rows is not None}


def tuning_rows(tasks: Sequence[Task], holdout: float | int | None = None) -> dict[str, TuningRows]:
    """By task, what it is scored on: its eval split, or with `holdout` a share or number of its train rows.

    Rows whose prompt stands in the task's test are never taken. Held-out rows are drawn over prompts, by the task's
    name alone, and every row with such a prompt leaves train.

    Raises:
        InputError: tasks have no eval split, or one that is mostly their test; train is too small for the holdout.
    """
    scored = [task for task in tasks if task.test is not None or task.eval is not None]
    if not scored:
        raise InputError("tasks: none has eval rows, so there is nothing to choose settings by; give them eval: FILE")
    if holdout is not None:
        return {task.name: hold_out(task, holdout) if task in scored else TuningRows() for task in tasks}
    missing = [task.name for task in scored if task.eval is None]
    if missing:
        raise InputError(
            f"no eval split: {', '.join(missing)}; settings are never chosen on test: give eval: FILE, or {_MEND}"
        )
    rows = {task.name: take_eval(task) if task in scored else TuningRows() for task in tasks}
    same = [name for name, found in rows.items() if found.scored is not None and found.left_out >= len(found.scored)]
    if same:
        raise InputError(f"eval rows are test rows, half of them or more: {', '.join(same)}; {_MEND}")
    return rows


def take_eval(task: Task) -> TuningRows:
    """The eval rows of a task, without those whose prompt stands in its test."""
    tested = _test_prompts(task)
    rows = read_rows(task, "eval")
    fresh = [row for row, example in rows if _prompt(example) not in tested]
    return TuningRows(scored=fresh, left_out=len(rows) - len(fresh))


def hold_out(task: Task, amount: float | int) -> TuningRows:
    """Train rows of a task in two: those that it is scored on, and those that it is trained on, both in their order."""
    rows = read_rows(task, "train")
    tested = _test_prompts(task)
    prompts = list(dict.fromkeys(_prompt(example) for _, example in rows))
    free = [prompt for prompt in prompts if prompt not in tested]
    count = amount if isinstance(amount, int) else max(1, round(amount * len(free)))
    if count > len(free) or count >= len(prompts):
        raise InputError(
            f"task {task.name!r}: --holdout {amount} leaves nothing to train on: train has {len(prompts)} prompts, of "
            f"which {len(free)} are not in test; hold out fewer"
        )
    order = np.random.default_rng([zlib.crc32(task.name.encode()), zlib.crc32(b"holdout")]).permutation(len(free))
    held = {free[i] for i in order[:count]}
    firsts = {_prompt(example): row for row, example in reversed(rows)}
    scored = [firsts[prompt] for prompt in prompts if prompt in held]
    train = [row for row, example in rows if _prompt(example) not in held]
    return TuningRows(scored=scored, train=train, left_out=len(prompts) - len(free))


def check_files(rows: dict[str, TuningRows], folder: Path) -> None:
    """Raises InputError where `folder` holds other rows: scores on them would stand in one table with these."""
    for path, content in _files(rows, folder):
        if path.is_file() and read_json(path) != content:
            raise InputError(
                f"{path}: the tuning there was on other rows (data or --holdout changed); give another --output-dir"
            )


def write_files(rows: dict[str, TuningRows], folder: Path) -> None:
    """Puts the rows where people, and `seekr evaluate`, find them."""
    for path, content in _files(rows, folder):
        if not path.is_file():
            path.parent.mkdir(PRIVATE, parents=True, exist_ok=True)
            write_json(path, content)


def _files(rows: dict[str, TuningRows], folder: Path) -> list[tuple[Path, Any]]:
    return [
        (path, json.loads(json.dumps(content, default=str)))
        for name, found in rows.items()
        for path, content in found.files(folder / name).values()
    ]


def _test_prompts(task: Task) -> set[str]:
    return {_prompt(example) for _, example in read_rows(task, "test")} if task.test is not None else set()


def _prompt(example: Example) -> str:
    return example.prompt_text.strip()
