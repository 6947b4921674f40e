"""Tasks as a run holds them: read, tokenized, in the order of their stages, and what may not change of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seekr.batches import answer_tokens
from seekr.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seekr.finished import FinishedTask
    from seekr.tasks import Encoded, EncodingSummary, Example, Task
    from seekr.tasks.answer_lengths import LongAnswers

JOINT = "joint"
"""The name of the one stage of a run that learns all tasks at once."""


@dataclass(frozen=True)
class TaskData:
    """A task, read and tokenized. `prompts` and `references` belong to `samples`, `test_prompts` to `test`.

    A task that is finished has no samples, whatever its files hold by now. `gone`: why its test rows cannot be asked
    again; what was answered is still there.
    """

    task: Task
    samples: list[Encoded]
    prompts: list[str]
    references: list[list[str]]
    summary: EncodingSummary
    test: list[Example]
    test_prompts: list[np.ndarray]
    cut_test_prompts: int
    long_answers: LongAnswers | None = None
    finished: FinishedTask | None = None
    gone: str | None = None

    def warnings(self) -> list[str]:
        """What a person should know of the rows, one line each: cut, empty, or answers that cannot be given."""
        cut = f"{self.cut_test_prompts} of {len(self.test)} test prompts were cut from the left to leave an answer room"
        long = [] if self.long_answers is None else [str(self.long_answers)]
        return [*self.summary.warnings(), *([cut] if self.cut_test_prompts else []), *long]

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a generated answer, also where the task leaves it to its references."""
        assert self.task.max_new_tokens is not None, "it is settled as the task is read"
        return self.task.max_new_tokens

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What may not change once the task is learned; the hashes are of the tokens."""
        if self.finished is not None:
            kept = ("rows", "train", *(["test"] if self.gone else []))
            return self._described() | {key: self.finished.identity.get(key) for key in kept}
        return self._described()

    def _described(self) -> dict[str, Any]:
        task = self.task
        rows = (part for sample in self.samples for part in (sample.input_ids, sample.labels))
        return {
            "learn": task.learn,
            "rows": len(self.samples),
            "train": _digest(rows),
            "num_train_epochs": task.num_train_epochs,
            "test": _test_digest(self.test, self.test_prompts) if self.test else None,
            "max_new_tokens": self.max_new_tokens,
        }

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens and answer tokens of each training row; of a finished task their means."""
        if self.finished is None:
            return [(len(sample.input_ids), answer_tokens(sample)) for sample in self.samples]
        rows = self.summary.rows
        return [(round(self.summary.tokens / rows), round(self.summary.answer_tokens / rows))] * rows


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run: one task, or with the method joint all tasks that are learned."""

    index: int
    name: str
    learn: bool
    data: list[TaskData]

    @property
    def samples(self) -> list[Encoded]:
        return [sample for data in self.data for sample in data.samples]

    @property
    def prompts(self) -> list[str]:
        return [prompt for data in self.data for prompt in data.prompts]

    @property
    def num_train_epochs(self) -> float | None:
        return self.data[0].task.num_train_epochs

    def identity(self) -> dict[str, Any]:
        """What the finished stage keeps in stage.json, to be compared on every later start."""
        return {"name": self.name, "tasks": {data.task.name: data.identity for data in self.data}}


def order_tasks(tasks: list[Task], *, joint: bool) -> list[Task]:
    """Skills come before everything that is trained: they are what the base model can do. Raises InputError."""
    ordered = sorted(tasks, key=lambda task: task.learn)  # stable: the order given within both kinds
    learned = [task for task in tasks if task.learn]
    if joint and not learned:
        raise InputError("method joint: no task is learned; set learn: true for at least one")
    if joint and len({task.num_train_epochs for task in learned}) > 1:
        raise InputError("method joint learns all tasks at once: num_train_epochs of its tasks must be the same")
    return ordered


def plan_stages(data: list[TaskData], *, joint: bool) -> list[PlannedStage]:
    """One stage a task; with `joint` a single one for all tasks that are learned."""
    if joint:
        return [PlannedStage(0, JOINT, True, [item for item in data if item.task.learn])]
    return [PlannedStage(index, item.task.name, item.task.learn, [item]) for index, item in enumerate(data)]


def read_task(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    seed: int,
    finished: FinishedTask | None = None,
) -> TaskData:
    """Reads the splits of a task and tokenizes them: of a `finished` one the test rows alone.

    Raises InputError with file and row.
    """
    from seekr.tasks import EncodingSummary, encode_all, encode_prompts, read_split
    from seekr.tasks.answer_lengths import enough_tokens, long_answers

    train = read_split(task, "train", seed=seed) if finished is None else []
    test, gone = _read_test(task, seed, finished)
    if task.eval is not None and finished is None:
        read_split(task, "eval", seed=seed)  # a broken file is told now, not by the first thing that uses it
    samples = encode_all(train, tokenizer, max_length)
    new_tokens = task.max_new_tokens
    if new_tokens is None and finished is not None:
        new_tokens = int(finished.identity["max_new_tokens"])
    elif new_tokens is None:
        new_tokens = enough_tokens(test or train, tokenizer)
    task = replace(task, max_new_tokens=new_tokens)
    room = max_length - new_tokens
    if test and room < 1:
        raise InputError(
            f"task {task.name!r}: max_new_tokens {new_tokens} leaves no room for a prompt in the {max_length} tokens "
            "of max_length; give a smaller number"
        )
    test_prompts = encode_prompts(test, tokenizer, max_length, new_tokens)
    if finished is not None and gone and _test_digest(test, test_prompts) == finished.identity["test"]:
        gone = None  # the answers tell the same rows
    full = [example for example, prompt in zip(test, test_prompts, strict=True) if len(prompt) == room]
    return TaskData(
        task=task,
        samples=samples,
        prompts=[example.prompt_text for example in train],
        references=[example.references for example in train],
        summary=EncodingSummary.of(train, samples) if finished is None else finished.summary,
        test=test,
        test_prompts=test_prompts,
        cut_test_prompts=sum(len(whole) > room for whole in encode_prompts(full, tokenizer, None, new_tokens)),
        long_answers=None if gone else long_answers(test, tokenizer, new_tokens),
        finished=finished,
        gone=gone,
    )


def _read_test(task: Task, seed: int, finished: FinishedTask | None) -> tuple[list[Example], str | None]:
    """The test rows; of a finished task whose file is not there any more those of its answers, and why."""
    from seekr.tasks import read_split

    if task.test is None:
        return [], None
    try:
        return read_split(task, "test", seed=seed), None
    except InputError as error:
        deleted = not isinstance(task.test, list) and not Path(task.test).expanduser().exists()
        asked = finished.asked(task) if finished is not None and deleted else []
        if not asked:
            raise
        return asked, str(error)


def _test_digest(test: Sequence[Example], prompts: Sequence[np.ndarray]) -> str:
    return _digest(prompts, [repr(example.references).encode() for example in test])


def _digest(arrays: Iterable[np.ndarray], texts: Iterable[bytes] = ()) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()[:32]
