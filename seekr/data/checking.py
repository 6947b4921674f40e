"""What a folder of tasks holds: rows and their faults, what stands in several splits, and lengths in tokens.

Nothing is mended: published files have such faults, and a score means more to whoever knows them. What a run would
refuse is said apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from seekr.data.answer_lengths import LongAnswers, long_answers
from seekr.data.encoding import Encoded, EncodingSummary, encode_all
from seekr.data.example import Example
from seekr.data.fields import field_notes, scored_turns_note
from seekr.data.files import NumberedRow, rows_of_file
from seekr.data.folders import NAMES, split_files, splits_of_folder
from seekr.data.presets import NEEDED, find_preset, missing
from seekr.data.reading import read_row
from seekr.data.task import NEW_TOKENS
from seekr.data.tokenizing import Tokenizer
from seekr.errors import InputError, listed
from seekr.progress import bar
from seekr.scoring.likelihood import LIKELIHOOD

Pair = tuple[str, str]  # prompt and answer, white space at both ends aside


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a split."""

    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> Lengths:
        """95% of the rows are at most `p95` long."""
        median, p95 = np.quantile(counts, [0.5, 0.95], method="inverted_cdf")
        return cls(int(median), int(p95), max(counts))


@dataclass(frozen=True)
class TokenCounts:
    """Lengths of a split, the answers with their end token; and how many rows the limits cut, None without a limit.

    `long_answers`: rows of test or eval that cannot be answered right in the tokens that are generated.
    """

    prompts: Lengths
    answers: Lengths
    cut_prompts: int | None
    cut_answers: int | None
    long_answers: LongAnswers | None = None


@dataclass(frozen=True)
class Shared:
    """How many rows of a split stand in another one too: by their prompt, and by prompt and answer."""

    prompts: int
    rows: int


@dataclass(frozen=True)
class SplitCheck:
    """One split of a task.

    Attributes:
        rows: that can be read.
        broken: why others cannot be, with file and row; a file that cannot be read at all is one of them.
        repeated: rows that stand earlier in the split too, prompt and answer.
        contradicting: rows whose prompt stands earlier in the split, only with other answers.
        empty_answers: of training rows the answer, of others a reference that is empty.
        shared: by the name of another split: what stands there too. Of eval: train, test. Of test: train.
        tokens: None without a tokenizer, or without rows.
        notes: what became of other keys of the rows, and with a tokenizer of what its chat template writes.
    """

    rows: int
    broken: list[str]
    repeated: int
    contradicting: int
    empty_answers: int
    shared: dict[str, Shared]
    tokens: TokenCounts | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TaskCheck:
    """One task. `eval_is_test`: both splits hold the same rows, so that choosing on eval is choosing on test."""

    name: str
    splits: dict[str, SplitCheck]
    eval_is_test: bool


@dataclass(frozen=True)
class FolderCheck:
    """All tasks of a folder; `missing` names TASK or TASK/split, `others` the tasks that are not of the preset."""

    folder: str
    preset: str | None
    missing: list[str]
    others: list[str]
    tasks: list[TaskCheck]

    def refused(self) -> str | None:
        """A line on what `seekr learn` would refuse of it; None = nothing."""
        splits = [(f"{task.name}/{name}", split.broken) for task in self.tasks for name, split in task.splits.items()]
        broken = [f"{len(reasons)} of {where}" for where, reasons in splits if reasons]
        lacking = [name for name in self.missing if self.preset and not name.endswith("/eval")]
        refused = [f"rows or files that cannot be read ({listed(broken)})"] if broken else []
        refused += [f"what the preset lacks here ({listed(lacking)})"] if lacking else []
        return f"{self.folder}: `seekr learn` would refuse {' and '.join(refused)}; see above" if refused else None


def check_folder(
    folder: Path,
    *,
    preset: str | None = None,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
) -> FolderCheck:
    """Looks through a folder of task folders, or one task folder.

    Args:
        preset: its tasks are looked for, and read with its separator and answer lengths; else every task there is.
        tokenizer: counts the tokens of every row as training reads it.
        max_length: tokens of prompt and answer; how many rows it would cut is counted. In test and eval, where a
            preset says how many tokens are generated, a prompt is cut to leave room for these, and an answer counts
            as cut where its reference is longer.
        max_new_tokens: tokens of a generated answer; None = the preset's, or a task's default.

    Raises:
        InputError: there is no such folder or no task in it, or the preset is unknown.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    fields = {} if preset is None else {task["name"]: task for task in find_preset(preset, "--preset").tasks}
    here = folder.resolve()
    if fields or not splits_of_folder(here):
        root, found = here, sorted(path.name for path in here.iterdir() if path.is_dir() and splits_of_folder(path))
    else:
        root, found = here.parent, [here.name]
    if not found:
        raise InputError(
            f"{folder}: no task in it; a task is a folder with train.json, test.json, or other files of rows that are "
            "named for their split"
        )
    names = [name for name in fields if name in found] or ([] if fields else found)
    held = {split for name in names for split in splits_of_folder(root / name)}
    wanted = [split for split in NAMES if split in held or split in NEEDED]
    tasks = []
    with bar("reading tasks", len(names)) as advance:
        for name in names:
            of_task = fields.get(name, {}) | ({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens})
            tasks.append(_check_task(root / name, root, of_task, tokenizer, max_length))
            advance(1)
    return FolderCheck(
        folder=str(folder),
        preset=preset,
        missing=missing(list(fields) or names, root, wanted),
        others=[name for name in found if name not in names],
        tasks=tasks,
    )


def _check_task(
    folder: Path, root: Path, fields: dict[str, Any], tokenizer: Tokenizer | None, max_length: int | None
) -> TaskCheck:
    read = {split: _read(folder, split, root, fields.get("separator", " ")) for split in splits_of_folder(folder)}
    rows = {split: [_row(example) for example in examples] for split, (examples, _) in read.items()}
    checked = {}
    for split, (examples, broken) in read.items():
        counted = Counter(rows[split])
        prompts = {prompt for prompt, _ in counted}
        generated = None if split == "train" else fields.get("max_new_tokens")
        encoded, refused = _encoded(examples, tokenizer) if tokenizer is not None else ([], [])
        notes = [] if refused else field_notes(examples, tokenizer)
        if split != "train" and fields.get("metric") != LIKELIHOOD:
            notes = [*notes, *scored_turns_note(examples)]
        long = None
        if tokenizer is not None and split != "train" and fields.get("metric") != LIKELIHOOD:
            readable = {row.example.source for row in encoded}
            scored = [example for example in examples if example.source in readable]
            long = long_answers(scored, tokenizer, generated or NEW_TOKENS, max_length)
        checked[split] = SplitCheck(
            rows=len(examples),
            broken=[*broken, *(reason.replace(f"{root}/", "") for reason in refused)],
            repeated=len(examples) - len(counted),
            contradicting=len(counted) - len(prompts),
            empty_answers=sum(_is_empty(example, split) for example in examples),
            shared={
                other: _shared(rows[split], rows[other])
                for other in {"eval": ("train", "test"), "test": ("train",)}.get(split, ())
                if other in rows
            },
            tokens=replace(_tokens(encoded, tokenizer, max_length, generated), long_answers=long)
            if tokenizer is not None and encoded
            else None,
            notes=[*notes, *EncodingSummary.of(encoded).notes],
        )
    both = Counter(rows.get("eval", [])), Counter(rows.get("test", []))
    return TaskCheck(folder.name, checked, eval_is_test=bool(both[0]) and both[0] == both[1])


def _read(folder: Path, split: str, root: Path, separator: str) -> tuple[list[Example], list[str]]:
    """The rows that can be read, and why the others cannot be: of JSON Lines those after a broken one still can."""
    examples: list[Example] = []
    broken: list[InputError] = []
    try:
        for where, row in chain.from_iterable(map(_rows, split_files(folder, split))):
            try:
                examples.append(read_row(row, where, separator=separator))
            except InputError as error:
                broken.append(error)
    except InputError as error:  # which files there are
        broken.append(error)
    return examples, [str(reason).replace(f"{root}/", "") for reason in broken]


def _rows(file: Path) -> Iterator[NumberedRow]:
    try:
        yield from rows_of_file(file)
    except InputError as error:  # the whole file, or what is left of it
        yield str(file), error


def _row(example: Example) -> Pair:
    return example.prompt_text.strip(), example.answer.strip()


def _is_empty(example: Example, split: str) -> bool:
    texts = [example.answer] if split == "train" else example.references
    return not all(text.strip() for text in texts)


def _shared(rows: Sequence[Pair], others: Sequence[Pair]) -> Shared:
    whole, prompts = set(others), {prompt for prompt, _ in others}
    return Shared(sum(prompt in prompts for prompt, _ in rows), sum(row in whole for row in rows))


def _encoded(examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[list[Encoded], list[str]]:
    """The rows whole, and why others cannot be made tokens of."""
    try:
        return encode_all(examples, tokenizer, None), []
    except InputError:
        encoded, refused = [], []
    for example in examples:
        try:
            encoded += encode_all([example], tokenizer, None)
        except InputError as error:
            refused.append(str(error))
    return encoded, refused


def _tokens(
    encoded: Sequence[Encoded], tokenizer: Tokenizer, max_length: int | None, generated: int | None
) -> TokenCounts:
    answers = [row.learned for row in encoded]
    prompts = [len(row.labels) - answer for row, answer in zip(encoded, answers, strict=True)]
    cut_prompts = cut_answers = None
    if generated is not None:
        cut_answers = sum(answer > generated for answer in answers)
        if max_length is not None:
            cut_prompts = sum(prompt > max_length - generated for prompt in prompts)
    elif max_length is not None:
        cut = encode_all([row.example for row in encoded], tokenizer, max_length)
        cut_prompts, cut_answers = sum(row.prompt_cut for row in cut), sum(row.answer_cut for row in cut)
    return TokenCounts(Lengths.of(prompts), Lengths.of(answers), cut_prompts, cut_answers)
