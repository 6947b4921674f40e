"""The rows of a run on paper: how long they are, which steps they make, and the largest forward among those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, count, islice

from transformers import TrainingArguments

from seekr.data.task_data import PlannedStage
from seekr.methods import Method
from seekr.modeling.batches import Row, StepKind
from seekr.training.order import StepPlan, split

Size = tuple[int, int]
"""Tokens of a row, and how many of them are answer."""


@dataclass(frozen=True)
class StageRows:
    """The rows of a stage; `known` says whether their sizes were counted or assumed."""

    index: int
    name: str
    learn: bool
    epochs: float | None
    sizes: Sequence[Size]
    known: bool = True

    @classmethod
    def of(cls, stage: PlannedStage) -> StageRows:
        """Those of a stage whose data was read; of a finished one the means of what was read then."""
        sizes = [size for data in stage.data for size in data.lengths]
        return cls(stage.index, stage.name, stage.learn, stage.num_train_epochs, sizes)


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

    `shapes`: of each kind the micro-batches of the first epoch.
    """

    rows: StageRows
    task_steps: int
    replay_steps: int
    task_tokens: int
    replay_tokens: int
    kept: Sequence[int]
    shapes: Mapping[StepKind, Set[Shape]]


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
        kept = method.places_of(len(stage.sizes), seed, stage.index, learn=stage.learn)
        past = [plan for plan in plans if plan.kept and method.replays]
        bounds = (getattr(method, name, None) for name in ("replay_passes", "replay_limit"))
        plan = StepPlan(len(stage.sizes), tuple(len(one.kept) for one in past), batch, seed, stage.index, *bounds)
        asked = math.ceil((stage.epochs or arguments.num_train_epochs) * len(plan))
        total = arguments.max_steps if arguments.max_steps > 0 else asked
        plans.append(_counted(stage, kept, past, plan, total if stage.learn else 0, accumulation, processes))
    return plans


def _counted(
    stage: StageRows, kept: Sequence[int], past: Sequence[StageSteps], plan: StepPlan, total: int, accumulation: int,
    processes: int,
) -> StageSteps:  # fmt: skip
    sources = [stage.sizes, *([one.rows.sizes[i] for i in one.kept] for one in past)]

    def size(row: Row) -> Size:
        return sources[row[0] + 1][row[1]]

    steps: Counter[StepKind] = Counter()
    tokens: Counter[StepKind] = Counter()
    for step in islice(chain.from_iterable(map(plan.epoch, count())), total):  # over as many epochs as that takes
        steps[step.kind] += 1
        tokens[step.kind] += sum(size(row)[0] for row in step.rows)
    shapes: dict[StepKind, set[Shape]] = {"task": set(), "replay": set()}
    for step in plan.epoch(0)[:total]:
        for slots in split(step, lambda row: size(row)[0], accumulation=accumulation, processes=processes):
            shapes[step.kind] |= {shape_of([size(row) for row in slot.rows]) for slot in slots}
    return StageSteps(stage, steps["task"], steps["replay"], tokens["task"], tokens["replay"], kept, shapes)


def measured_shape(plans: Sequence[StageSteps], together: int) -> Shape | None:
    """The largest forward in which kept rows are measured, `together` at a time in the order of the data."""
    each = [
        (plan.rows.sizes, plan.kept[i : i + together]) for plan in plans for i in range(0, len(plan.kept), together)
    ]
    return largest_of(shape_of([sizes[place] for place in places]) for sizes, places in each)


def shape_of(sizes: Sequence[Size]) -> Shape:
    """The forward of rows of these sizes: so many answer tokens each that they are as many together."""
    lengths, answers = zip(*sizes, strict=True)
    return Shape(len(lengths), max(lengths), math.ceil(sum(answers) / len(answers)), min(lengths) < max(lengths))


def largest_of(shapes: Iterable[Shape]) -> Shape | None:
    """The one of the most padded tokens, with the answers of the one that has most; None where there is none."""
    found = list(shapes)
    if not found:
        return None
    largest = max(found, key=lambda shape: (shape.rows * shape.length, shape.padded, shape.rows))
    answers = math.ceil(max(shape.rows * shape.answers for shape in found) / largest.rows)
    return replace(largest, answers=min(largest.length, answers))
