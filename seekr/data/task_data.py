"""Tasks as a run holds them: read, tokenized, in the order of their stages, and what may not change of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from seekr.data.answer_lengths import LongAnswers, enough_tokens, long_answers
from seekr.data.answers import AnswerKey, Asked, compared_otherwise
from seekr.data.encoding import Encoded, EncodingSummary, encode_all, encode_prompts
from seekr.data.example import Example
from seekr.data.fields import field_notes
from seekr.data.finished import FinishedTask
from seekr.data.reading import read_split
from seekr.data.task import Task
from seekr.data.token_rows import answer_tokens
from seekr.data.tokenizing import Tokenizer
from seekr.disk.files import user_path
from seekr.errors import InputError
from seekr.scoring.cells import JOINT
from seekr.scoring.likelihood import LIKELIHOOD


@dataclass(frozen=True)
class TaskData:
    """A task, read and tokenized. `asked` belongs to `test`; `fields` says what became of other keys of the rows.

    Where the metric is likelihood nothing is generated: `test_rows`, prompts with their answers, take the place of
    `asked`. A task that is finished has no samples, whatever its files hold by now. `gone`: why its test rows cannot be
    asked again; what was answered is still there.
    """

    task: Task
    samples: list[Encoded]
    summary: EncodingSummary
    test: list[Example]
    fields: list[str]
    asked: list[Asked] = field(default_factory=list)
    test_rows: list[Encoded] = field(default_factory=list)
    long_answers: LongAnswers | None = None
    finished: FinishedTask | None = None
    gone: str | None = None

    @property
    def test_prompts(self) -> list[np.ndarray]:
        return [question.ids for question in self.asked]

    @property
    def keys(self) -> list[AnswerKey | None]:
        """How the answer to each test row is read; None where it is not generated."""
        return [question.key for question in self.asked] if self.asked else [None] * len(self.test)

    @property
    def cut_test_prompts(self) -> int:
        return sum(question.cut for question in self.asked)

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a generated answer, also where the task leaves it to its references."""
        assert self.task.max_new_tokens is not None, "it is settled as the task is read"
        return self.task.max_new_tokens

    def warnings(self) -> list[str]:
        """What a person should know of the rows, one line each: ignored, cut, empty, too long, compared otherwise."""
        lines = {"test prompts were cut from the left to leave an answer room": self.cut_test_prompts}
        if self.test_rows:
            lines = self._test_row_warnings()
        trained = {(sample.example.prompt_text, sample.example.answer) for sample in self.samples}
        lines["test rows are trained on too, so that their score is no measure of new ones"] = sum(
            (example.prompt_text, example.answer) in trained for example in self.test
        )
        rows: list[Asked] | list[Encoded] = self.asked or self.test_rows
        notes = Counter(note for row in rows for note in row.notes)
        lines |= {f"test rows: {note}": count for note, count in notes.items() if note not in self.summary.notes}
        test = [f"{count} of {len(self.test)} {what}" for what, count in lines.items() if count]
        long = [] if self.long_answers is None else [str(self.long_answers)]
        pairs = [
            (raw, right)
            for example, question in zip(self.test, self.asked, strict=False)
            for raw, right in zip(example.references, question.key.references, strict=True)
        ]
        return [*self.fields, *self.summary.warnings(), *test, *long, *compared_otherwise(pairs)]

    def _test_row_warnings(self) -> dict[str, int]:
        found = EncodingSummary.of(self.test_rows)
        return {
            "test prompts were cut from the left, after their first token, to fit max_length": found.cut_prompts,
            "test answers were longer than max_length and are scored without their end": found.cut_answers,
            "test answers are empty: their end token alone is scored": found.empty_answers,
            "test answers hold nothing that the tokenizer knows: their end token alone is scored": found.unread_answers,
            "test rows are one token long, which nothing predicts, and are not scored": sum(
                not answer_tokens(row) for row in self.test_rows
            ),
        }

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
            "test": self.test_identity(),
            "max_new_tokens": None if task.metric == LIKELIHOOD else self.max_new_tokens,
        }

    def test_identity(self) -> str | None:
        """Of the test rows: a hash of what is asked and what is right."""
        if not self.test:
            return None
        answers = [repr(example.references).encode() for example in self.test]
        if self.task.metric != LIKELIHOOD:
            return _digest(self.test_prompts, answers)
        rows = (part for row in self.test_rows for part in (row.input_ids, row.labels))
        return f"{LIKELIHOOD} of {_digest(rows, answers)}"

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
        return [sample.example.prompt_text for sample in self.samples]

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
    task: Task, tokenizer: Tokenizer, max_length: int, *, seed: int, finished: FinishedTask | None = None
) -> TaskData:
    """Reads the splits of a task and tokenizes them: of a `finished` one the test rows alone.

    Raises InputError with file and row.
    """
    train = read_split(task, "train", seed=seed) if finished is None else []
    test, compared, gone = _read_test(task, seed, finished)
    if task.eval is not None and finished is None:
        read_split(task, "eval", seed=seed)  # a broken file is reported now, not by the first thing that uses it
    samples = encode_all(train, tokenizer, max_length)
    data = TaskData(
        task=replace(task, max_new_tokens=_settled(task, test or train, tokenizer, finished)),
        samples=samples,
        summary=EncodingSummary.of(samples) if finished is None else finished.summary,
        test=test,
        fields=field_notes([*train, *test], tokenizer),
        finished=finished,
    )
    data = _with_test_rows(data, tokenizer, max_length)
    if finished is None or gone is None:
        return data
    asked = [
        replace(question, key=replace(question.key, references=right))
        for question, right in zip(data.asked, compared, strict=False)
    ]
    if data.test_identity() == finished.identity["test"]:
        return replace(data, asked=asked)  # the answers tell the same rows
    kept = [Asked(question.ids, AnswerKey(question.key.references)) for question in asked]
    return replace(data, asked=kept, test_rows=[], long_answers=None, gone=gone)


def read_test_rows(
    task: Task, tokenizer: Tokenizer, max_length: int, *, seed: int, finished: FinishedTask | None
) -> TaskData:
    """A task of which only test rows are there, new ones of a `finished` task perhaps. Raises as `read_task`."""
    test = read_split(task, "test", seed=seed)
    task = replace(task, max_new_tokens=_settled(task, test, tokenizer, finished))
    data = TaskData(task, samples=[], summary=EncodingSummary.of([]), test=test, fields=field_notes(test, tokenizer))
    return _with_test_rows(data, tokenizer, max_length)


def _settled(task: Task, rows: list[Example], tokenizer: Tokenizer, finished: FinishedTask | None) -> int:
    """Tokens of a generated answer; where the task leaves them to its references, those of the finished task."""
    if task.max_new_tokens is not None:
        return task.max_new_tokens
    learned_with = None if finished is None else finished.identity.get("max_new_tokens")  # None too: likelihood
    return enough_tokens(rows, tokenizer) if learned_with is None else int(learned_with)


def _with_test_rows(data: TaskData, tokenizer: Tokenizer, max_length: int) -> TaskData:
    """With what the model is asked for the test rows. Raises InputError where nothing can be."""
    task, test = data.task, data.test
    if task.metric == LIKELIHOOD:
        rows = encode_all(test, tokenizer, max_length)
        if rows and not any(map(answer_tokens, rows)):
            raise InputError(f"task {task.name!r}, test: its rows are one token long, which nothing predicts")
        return replace(data, test=[row.example for row in rows], test_rows=rows)
    if not test:
        return data
    new_tokens = data.max_new_tokens
    if max_length - new_tokens < 1:
        raise InputError(
            f"task {task.name!r}: max_new_tokens {new_tokens} leaves no room for a prompt in the {max_length} tokens "
            "of max_length; give a smaller number, or a larger max_length"
        )
    return replace(
        data,
        asked=encode_prompts(test, tokenizer, max_length, new_tokens),
        long_answers=long_answers(test, tokenizer, new_tokens, max_length),
    )


def _read_test(
    task: Task, seed: int, finished: FinishedTask | None
) -> tuple[list[Example], list[list[str]], str | None]:
    """The test rows; of a finished task whose file is not there any more those of its answers, what these were compared
    with, and why.
    """
    if task.test is None:
        return [], [], None
    try:
        return read_split(task, "test", seed=seed), [], None
    except InputError as error:
        deleted = not isinstance(task.test, list) and not user_path(task.test).exists()
        asked, compared = finished.asked(task) if finished is not None and deleted else ([], [])
        if not asked:
            raise
        return asked, compared, str(error)


def _digest(arrays: Iterable[np.ndarray], texts: Iterable[bytes] = ()) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()[:32]
