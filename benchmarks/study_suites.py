"""The suites of `study.py`: which tasks in which order, which rows of them, and how they are trained on."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from builtin_text import draw_text

from seekr.builtin.demo import MAX_NEW_TOKENS, ROWS, TRAINING
from seekr.builtin.tasks import TASKS as BUILTIN
from seekr.builtin.tasks import builtin_rows
from seekr.data.encoding import encode_all
from seekr.data.presets import PRESETS
from seekr.data.reading import read_rows
from seekr.data.task import Task
from seekr.disk.files import write_json
from seekr.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["eval", "test"]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Suite:
    """Tasks in their order, by their folders below `data`; `builtin` makes the demo's own instead.

    `max_tokens`: prompt and answer together; longer rows are left out before any is drawn. `fields` are fields of a
    task that win over those of the presets. `training`, `method` and `lora` hold for every method that knows the key,
    where its label says nothing else. `general` is a file of rows that no task contains.
    """

    tasks: tuple[str, ...]
    train_rows: int
    eval_rows: int
    test_rows: int
    max_tokens: int
    training: dict[str, Any]
    method: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    builtin: bool = False
    general: str = "general/alpaca.json"
    general_rows: int = 64
    general_tokens: int = 192
    max_length: int | None = None

    def changed(self, changes: dict[str, Any]) -> Suite:
        """With other values. Raises InputError for a field that a suite does not have."""
        for key in changes:
            if key not in self.__dataclass_fields__:
                raise InputError(f"suite.{key}: a suite has {', '.join(self.__dataclass_fields__)}")
        tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
        return replace(self, **tuples)

    def rows_of(self, split: Split) -> int:
        return self.eval_rows if split == "eval" else self.test_rows


_CONSTANT = {"lr_scheduler_type": "constant", "adam_beta2": 0.95}
# Answers of one letter or number: the 512 tokens of the preset are for answers with a reasoning.
_SHORT = {"FOMC": {"max_new_tokens": 8}, "NumGLUE-cm": {"max_new_tokens": 16}, "NumGLUE-ds": {"max_new_tokens": 16}}

SUITES: dict[str, Suite] = {
    "demo": Suite(
        tasks=tuple(BUILTIN),
        train_rows=ROWS["train"],
        eval_rows=ROWS["eval"],
        test_rows=ROWS["test"],
        max_tokens=64,
        training=TRAINING,
        method={"replay_ratio": 0.02, "query_budget": None, "head_budget": 8},
        builtin=True,
        general_rows=200,
    ),
    "nano5": Suite(
        tasks=("superni/task591", "superni/task195", "superni/task363", "superni/task1510", "superni/task875"),
        train_rows=240,
        eval_rows=100,
        test_rows=100,
        max_tokens=320,
        training={**_CONSTANT, "learning_rate": 5e-4, "per_device_train_batch_size": 8, "num_train_epochs": 3},
        method={"replay_ratio": 0.04},
        general_tokens=320,
    ),
    "smol6": Suite(
        tasks=(
            *("superni/task1510", "superni/task748", "trace_500/FOMC"),
            *("superni/task363", "trace_500/NumGLUE-cm", "superni/task875"),
        ),
        train_rows=160,
        eval_rows=40,
        test_rows=80,
        max_tokens=200,
        training={
            **_CONSTANT,
            "learning_rate": 5e-5,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "bf16": True,
            "bf16_full_eval": True,
        },
        method={"replay_ratio": 0.05},
        fields=_SHORT,
        max_length=1024,
    ),
}


def write_tasks(
    suite: Suite, data: Path, folder: Path, *, seed: int, split: Split, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Task], dict[str, dict[str, int]]]:
    """The tasks of one run as files in `folder`, drawn by `seed`, and how many rows each has and left out.

    Raises InputError for a file that is missing, and where too few rows are short enough to draw from.
    """
    tasks, counts = [], {}
    for place in suite.tasks:
        name = Path(place).name
        fields = task_fields(suite, name)
        drawn = {}
        counts[name] = {"left_out": 0}
        for part, count in (("train", suite.train_rows), (split, suite.rows_of(split))):
            rows, left_out = _draw(suite, place, data, part, count, seed=seed, tokenizer=tokenizer, fields=fields)
            drawn[part] = folder / f"seed-{seed}" / name / f"{part}.json"
            if not drawn[part].is_file() or json.loads(drawn[part].read_text(encoding="utf-8")) != rows:
                write_json(drawn[part], rows)
            counts[name] |= {"train" if part == "train" else "scored": len(rows)}
            counts[name]["left_out"] += left_out
        tasks.append(Task(name, train=drawn["train"], test=drawn[split], **fields))
    return tasks, counts


def task_fields(suite: Suite, name: str) -> dict[str, Any]:
    """How a task is scored: as the first preset that has it says, but for what the suite says itself."""
    if suite.builtin:
        return {"max_new_tokens": MAX_NEW_TOKENS, "separator": ""}
    found = next((task for preset in PRESETS.values() for task in preset.tasks if task["name"] == name), None)
    if found is None:
        raise InputError(f"suite.tasks: no preset has the task {name!r}")
    own = ("metric", "max_new_tokens", "separator")  # epochs are the suite's
    return {key: found[key] for key in own if key in found} | suite.fields.get(name, {})


def general_rows(suite: Suite, data: Path, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Rows that no task contains, the same for every seed: what the model can do apart from the tasks.

    For a model with a chat template they are chat rows; for the demo, ends of texts as it was pre-trained on.
    """
    if suite.builtin:
        return _pretraining_rows(suite.general_rows)
    rows = json.loads((data / suite.general).read_text(encoding="utf-8"))
    if getattr(tokenizer, "chat_template", None):
        rows = [
            {"messages": [_turn("user", row["prompt"].removesuffix("\nOutput:")), _turn("assistant", row["answer"])]}
            for row in rows
        ]
    task = Task("general", train=rows, separator="")
    short, _ = _short_enough(task, "train", suite.general_tokens, tokenizer)
    if len(short) < suite.general_rows:
        raise InputError(f"suite.general_rows: {suite.general} has {len(short)} rows of {suite.general_tokens} tokens")
    return [short[i] for i in np.random.default_rng(0).permutation(len(short))[: suite.general_rows]]


def _draw(
    suite: Suite,
    place: str,
    data: Path,
    part: Any,
    count: int,
    *,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    fields: dict[str, Any],
) -> tuple[Rows, int]:
    if suite.builtin:
        return list(builtin_rows(place, part, seed=seed, count=count)), 0
    name = Path(place).name
    source = data / place / f"{part}.json"
    task = Task(name, train=source, **{**fields, **({} if part == "train" else {part: source})})
    rows, left_out = _short_enough(task, part, suite.max_tokens, tokenizer)
    if len(rows) < count:
        raise InputError(
            f"{source}: {len(rows)} rows have an answer and {suite.max_tokens} tokens at most, {count} are wanted; set "
            f"suite.max_tokens, suite.train_rows, suite.{part}_rows"
        )
    names = [zlib.crc32(text.encode()) for text in (name, part)]
    order = np.random.default_rng([seed, *names]).permutation(len(rows))
    return [rows[i] for i in order[:count]], left_out


def _short_enough(task: Task, part: Any, tokens: int, tokenizer: PreTrainedTokenizerBase) -> tuple[Rows, int]:
    pairs = [(row, example) for row, example in read_rows(task, part) if example.answer.strip()]
    encoded = encode_all([example for _, example in pairs], tokenizer, None)
    short = [row for (row, _), sample in zip(pairs, encoded, strict=True) if len(sample.input_ids) <= tokens]
    return short, len(pairs) - len(short)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _pretraining_rows(count: int) -> Rows:
    rng = random.Random("general")
    texts = (draw_text(rng) for _ in range(count))
    return [{"prompt": "".join(piece for piece, _ in asked), "answer": answer} for *asked, (answer, _) in texts]
