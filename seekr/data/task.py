"""A task: where its rows are, how it is scored, and what is its own among the settings of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seekr.data.messages import Answers, check_template_kwargs
from seekr.errors import InputError
from seekr.scoring.likelihood import LIKELIHOOD
from seekr.scoring.metrics import find_metric

Source = str | Path | list[dict[str, Any]]

IN_MEMORY = "rows in memory>"
"""How run.json says that rows came from Python; the end of a name that no file has."""

NEW_TOKENS = 32
"""Tokens of a generated answer where a task does not say how many."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_LONGEST_NAME = 200  # file systems end at 255, and parts of a run add to it


@dataclass
class Task:
    """One task of a sequence.

    `train`, `test` and `eval` each name a file (.json, .jsonl), a folder, a data set of the hub
    (`owner/name`, or `owner/name:configuration`), or are rows in memory; `seekr.data.reading.read_split` reads them.

    Raises:
        InputError: for a name that is no plain folder name, an unknown metric, or a value out of range.
    """

    name: str
    train: Source
    test: Source | None = None  # None: the task is never scored
    eval: Source | None = None
    metric: str = "accuracy"
    max_new_tokens: int | None = NEW_TOKENS  # of a generated answer, its end included; None: what references take
    learn: bool = True  # False: a skill that the model already has, remembered and not trained
    num_train_epochs: float | None = None  # None: those of the run's training settings
    train_limit: int | None = None  # rows, after the seed's shuffle; None: all, in the order of the file
    test_limit: int | None = None  # rows of test, and of eval
    answers: Answers = "all"  # of a chat row: every assistant turn is trained, or the last one only
    separator: str = (
        " "  # between prompt and answer where neither brings white space: " ", or "" as TRACE's code has it
    )
    chat_template: str | Path | None = None  # the file of a Jinja template for chat rows; None: the tokenizer's own
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the template, such as enable_thinking

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(
                f"task name {self.name!r}: it becomes a folder name, so only letters, digits, '.', '_' and "
                "'-' are allowed, and no '.' in front"
            )
        if len(self.name) > _LONGEST_NAME:
            raise InputError(
                f"task name '{self.name[:40]}…': it becomes a folder name, and has {len(self.name)} characters; use at "
                f"most {_LONGEST_NAME}"
            )
        for key in ("train", "test", "eval"):
            source = getattr(self, key)
            optional = source is None and key != "train"
            if not optional and (not isinstance(source, str | Path | list) or source == ""):
                raise self._refusal(key, "must be a file, a folder, a hub name or a list of rows")
        if self.metric != LIKELIHOOD:
            try:
                find_metric(self.metric)
            except InputError as error:
                raise InputError(f"task {self.name!r}: {error}") from None
        for key in ("max_new_tokens", "train_limit", "test_limit"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 1):
                raise self._refusal(key, "must be a whole number of at least 1")
        epochs = self.num_train_epochs
        if epochs is not None and (type(epochs) not in (int, float) or not 0 < epochs < float("inf")):
            raise self._refusal("num_train_epochs", "must be a number above 0")
        if not isinstance(self.learn, bool):
            raise self._refusal("learn", "must be true or false")
        if self.answers not in ("all", "last"):
            raise self._refusal("answers", "must be 'all' or 'last'")
        if self.separator not in (" ", ""):
            raise self._refusal("separator", "must be one space or empty")
        if self.chat_template is not None and (
            not isinstance(self.chat_template, str | Path) or not str(self.chat_template)
        ):
            raise self._refusal("chat_template", "must be the file of a Jinja template")
        if self.chat_template_kwargs is not None:
            check_template_kwargs(self.chat_template_kwargs, f"task {self.name!r}: chat_template_kwargs")

    def _refusal(self, key: str, rule: str) -> InputError:
        return InputError(f"task {self.name!r}: {key} {rule}, not {str(getattr(self, key))[:60]!r}")


def with_template_kwargs(tasks: Sequence[Task], variables: Mapping[str, Any] | None) -> list[Task]:
    """The tasks with these variables of a run's chat template, over which come those that a task has of its own.

    A task with a template of its own has no use for them.
    """
    if not variables:
        return list(tasks)
    return [
        replace(task, chat_template_kwargs={**variables, **(task.chat_template_kwargs or {})})
        if task.chat_template is None
        else task
        for task in tasks
    ]


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raise InputError if there is no task, or a name comes twice (file systems may ignore case, so this does too)."""
    if not tasks:
        raise InputError("tasks: the list is empty; give at least one task")
    seen: dict[str, str] = {}
    for task in tasks:
        folded = task.name.casefold()
        if folded in seen:
            both = repr(task.name) if seen[folded] == task.name else f"{task.name!r} (next to {seen[folded]!r})"
            raise InputError(f"tasks: the name {both} comes twice; give every task a name of its own")
        seen[folded] = task.name
