"""The rows of a run on paper: how long they are, which steps they make, and the largest forward among those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from seekr.modeling.batches import Row, StepKind
from seekr.training.order import Step, StepPlan, split

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from seekr.data.task_data import PlannedStage
    from seekr.methods import Method


@dataclass(frozen=True)
class StageRows:
    """The rows of a stage: tokens and answer tokens of each; `known` says whether they were counted or assumed."""

    index: int
    name: str
    learn: bool
    epochs: float | None
    tokens: Sequence[int]
    answers: Sequence[int]
    known: bool = True

    @classmethod
    def of(cls, stage: PlannedStage) -> StageRows:
        """Those of a stage whose data was read; of a finished one the means of what was read then."""
        lengths = [length for data in stage.data for length in data.lengths]
        return cls(
            stage.index,
            stage.name,
            stage.learn,
            stage.num_train_epochs,
            [tokens for tokens, _ in lengths],
            [answers for _, answers in lengths],
        )


@dataclass(frozen=True)
class Shape:
    """One forward: `rows` of up to `length` tokens with `answers` answer tokens each, padded or of one length."""

    rows: int
    length: int
    answers: int
    padded: bool


@dataclass(frozen=True)
class StageSteps:
    """Optimizer steps of a stage by kind, the tokens that they read (padding not counted), and the rows kept of it.

    `task_shape`, `replay_shape`: the largest micro-batch of the first epoch, by padded tokens.
    """

    rows: StageRows
    task_steps: int
    replay_steps: int
    task_tokens: int
    replay_tokens: int
    kept: Sequence[int]
    task_shape: Shape | None
    replay_shape: Shape | None

    @property
    def steps(self) -> int:
        """Of both kinds."""
        return self.task_steps + self.replay_steps


def plan_steps(
    stages: Sequence[StageRows],
    method: Method,
    arguments: TrainingArguments,
    *,
    seed: int,
    processes: int,
    step_rows: int | None = None,
) -> list[StageSteps]:
    """The steps of every stage, by the trainer's plan; `step_rows` where it is not what all add up to."""
    accumulation = arguments.gradient_accumulation_steps
    batch = step_rows or arguments.per_device_train_batch_size * accumulation * processes
    plans: list[StageSteps] = []
    for stage in stages:
        kept = method.places_of(len(stage.tokens), seed, stage.index, learn=stage.learn)
        if not stage.learn:
            plans.append(StageSteps(stage, 0, 0, 0, 0, kept, None, None))
            continue
        past = [plan for plan in plans if plan.kept and method.replays]
        kept_rows = tuple(len(one.kept) for one in past)
        passes = getattr(method, "replay_passes", None)
        plan = StepPlan(len(stage.tokens), kept_rows, batch, seed, stage.index, passes)
        total = (
            arguments.max_steps
            if arguments.max_steps > 0
            else math.ceil((stage.epochs or arguments.num_train_epochs) * len(plan))
        )
        counted = _Counted(stage, past)
        steps, tokens = counted.count(plan, total)
        shapes = counted.largest(plan.epoch(0)[:total], accumulation, processes)
        plans.append(
            StageSteps(
                stage, steps["task"], steps["replay"], tokens["task"], tokens["replay"],
                kept, shapes.get("task"), shapes.get("replay"),
            )
        )  # fmt: skip
    return plans


class _Counted:
    """The lengths of a stage's rows and of what is kept of the past ones."""

    def __init__(self, stage: StageRows, past: Sequence[StageSteps]) -> None:
        self._sources = [(stage.tokens, stage.answers)] + [
            ([one.rows.tokens[i] for i in one.kept], [one.rows.answers[i] for i in one.kept]) for one in past
        ]

    def tokens(self, row: Row) -> int:
        return self._sources[row[0] + 1][0][row[1]]

    def count(self, plan: StepPlan, total: int) -> tuple[Counter[StepKind], Counter[StepKind]]:
        """Steps and tokens by kind over `total` steps: whole epochs and passes read every row once."""
        whole, rest = divmod(total, len(plan))
        steps: Counter[StepKind] = Counter({"task": whole * plan.task_steps, "replay": whole * plan.replay_steps})
        sums = [sum(tokens) for tokens, _ in self._sources]
        passes, left = divmod(steps["replay"], plan.pass_steps) if plan.pass_steps else (0, 0)
        tokens: Counter[StepKind] = Counter({"task": whole * sums[0], "replay": passes * sum(sums[1:])})
        for rows in islice(plan.replayed(passes * plan.pass_steps), left):
            tokens["replay"] += sum(map(self.tokens, rows))
        for step in plan.epoch(whole)[:rest] if rest else ():
            steps[step.kind] += 1
            tokens[step.kind] += sum(map(self.tokens, step.rows))
        return steps, tokens

    def largest(self, steps: Sequence[Step], accumulation: int, processes: int) -> dict[StepKind, Shape]:
        """Of each kind the micro-batch of the most padded tokens, with the answers of the one that has most."""
        found: dict[StepKind, Shape] = {}
        for step in steps:
            for slots in split(step, self.tokens, accumulation=accumulation, processes=processes):
                for slot in slots:
                    answers = [self._sources[source + 1][1][i] for source, i in slot.rows]
                    shape = shape_of([self.tokens(row) for row in slot.rows], answers)
                    found[step.kind] = _larger(found.get(step.kind), shape)
        return found


def measured_shape(plans: Sequence[StageSteps], together: int) -> Shape | None:
    """The largest forward in which kept rows are measured, `together` at a time in the order of the data."""
    largest: Shape | None = None
    for plan in plans:
        for start in range(0, len(plan.kept), together):
            places = plan.kept[start : start + together]
            shape = shape_of([plan.rows.tokens[i] for i in places], [plan.rows.answers[i] for i in places])
            largest = _larger(largest, shape)
    return largest


def drawn_shape(plans: Sequence[StageSteps], rows: int) -> Shape | None:
    """The largest forward of up to `rows` kept rows that are drawn at random while a later task is learned."""
    last = max((place for place, plan in enumerate(plans) if plan.rows.learn), default=0)
    kept = [(plan.rows.tokens[i], plan.rows.answers[i]) for plan in plans[:last] for i in plan.kept]
    if not kept:
        return None
    longest = sorted(kept, reverse=True)[:rows]
    return shape_of([tokens for tokens, _ in longest], sorted((answers for _, answers in kept), reverse=True)[:rows])


def shape_of(lengths: Sequence[int], answers: Sequence[int]) -> Shape:
    """The forward of rows of these lengths: so many answer tokens each that they are as many together."""
    return Shape(len(lengths), max(lengths), math.ceil(sum(answers) / len(answers)), min(lengths) < max(lengths))


def largest_of(shapes: Sequence[Shape | None]) -> Shape | None:
    """The one of the most padded tokens, with the answers of the one that has most; None where there is none."""
    found: Shape | None = None
    for shape in shapes:
        found = found if shape is None else _larger(found, shape)
    return found


def _larger(one: Shape | None, other: Shape) -> Shape:
    if one is None:
        return other
    larger = max(one, other, key=lambda shape: (shape.rows * shape.length, shape.padded))
    answers = math.ceil(max(shape.rows * shape.answers for shape in (one, other)) / larger.rows)
    return Shape(larger.rows, larger.length, min(larger.length, answers), larger.padded)


def assumed(index: int, name: str, learn: bool, epochs: float | None, rows: int, length: int) -> StageRows:
    """Rows that are not here: each as long as it may be, all of it answer."""
    return StageRows(index, name, learn, epochs, [length] * rows, [length - 1] * rows, known=False)


def together(name: str, stages: Sequence[StageRows]) -> StageRows:
    """The one stage that learns the rows of several tasks at once."""
    tokens, answers = ([n for stage in stages for n in getattr(stage, key)] for key in ("tokens", "answers"))
    return StageRows(0, name, True, stages[0].epochs, tokens, answers, all(stage.known for stage in stages))
