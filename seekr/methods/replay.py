"""Experience replay: a few rows of each past task are kept and trained on again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from seekr.data.token_rows import TokenizedRow
from seekr.memory.writer import MemoryWriter
from seekr.methods.base import Method, Objective, TaskContext
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import logits_at

Ratio = Annotated[float, Field(gt=0, le=1)]
_LEAST = 20  # chosen on eval rows: docs/choosing-settings.md


class Rehearsal(Method):
    """Keeps some rows of each task, `kept_samples` of a subclass, and replays them at steps of their own.

    Args:
        replay_passes: how often each kept row is replayed in an epoch, as long as there are no more replay steps than
            steps of the task: a task costs twice its own steps at most, however many came before it. null = once, the
            rule of SEEKR's paper, whatever that costs.
        replay_limit: how many kept rows are replayed in a task at most, of all tasks before it together, in even
            shares; null = all. All stay kept, and each task draws its own.
    """

    keeps = True
    replays = True
    free = Method.free | {"replay_passes", "replay_limit"}

    replay_passes: Annotated[int, Field(ge=1)] | None = 4
    replay_limit: Annotated[int, Field(ge=1)] | None = None

    @abstractmethod
    def kept_samples(self, context: TaskContext) -> Sequence[TokenizedRow]:
        """The rows that are kept of the task."""

    def start(self, context: TaskContext) -> Objective:
        return AnswerReplay(self, context.memories())

    def remember(self, context: TaskContext) -> None:
        self.memory_writer(context, self.kept_samples(context)).close()

    def memory_writer(self, context: TaskContext, samples: Sequence[TokenizedRow], **options: Any) -> MemoryWriter:
        """Writes the memory of the stage under construction; `options` = heads and form of attention, facts."""
        return context.writer(context.folder / "memory", samples, **options)


class Replay(Rehearsal):
    """Keeps `replay_ratio` of each task's rows and replays them at steps of their own.

    Args:
        replay_ratio: kept share of a task's rows, 0 < ratio ≤ 1; at least one row is kept. null = 1 in 100, but 20 rows
            where a task has as many: what fewer rows hold does not hold for others of their task.
        replay_choice: "random" rows drawn by the run's seed, or the "first" ones, as the released code of SEEKR has it.

    Source: experience replay as in Chaudhry et al., arXiv 1902.10486.
    """

    name = "replay"

    replay_ratio: Ratio | None = None
    replay_choice: Literal["random", "first"] = "random"

    def kept_rows(self, rows: int) -> int:
        """max(1, round(ratio × rows)); without a ratio min(rows, max(20, round(rows / 100)))."""
        if self.replay_ratio is None:
            return min(rows, max(_LEAST, round(rows / 100)))
        return max(1, round(self.replay_ratio * rows))

    def advice(self, rows: Mapping[str, int]) -> list[str]:
        """Names the tasks of which the given ratio keeps fewer rows than are kept without one."""
        kept = {task: self.kept_rows(count) for task, count in rows.items()}
        few = {task: count for task, count in kept.items() if count < min(_LEAST, rows[task])}
        if not few:
            return []
        least, most = min(few.values()), max(few.values())
        counts = f"{least}" if least == most else f"{least} to {most}"
        noun = "row" if most == 1 else "rows"
        tasks = f"task {next(iter(few))}" if len(few) == 1 else f"each of {len(few)} tasks"
        return [
            f"method.replay_ratio={self.replay_ratio:g} keeps {counts} {noun} of {tasks}: fewer than {_LEAST} hold "
            f"little of a task but themselves; null keeps {_LEAST}"
        ]

    def kept_places(self, context: TaskContext) -> list[int]:
        """Where in the task's data the rows stand that are kept, ascending."""
        return self.places_of(len(context.samples), context.seed, context.index, learn=context.learn)

    def places_of(self, rows: int, seed: int, index: int, *, learn: bool = True) -> list[int]:
        count = self.kept_rows(rows)
        if self.replay_choice == "first":
            return list(range(count))
        chosen = np.random.default_rng([seed, index]).choice(rows, size=count, replace=False)
        return [int(place) for place in np.sort(chosen)]

    def kept_samples(self, context: TaskContext) -> Sequence[TokenizedRow]:
        """The rows of the task that are kept, in the order of the data."""
        return [context.samples[place] for place in self.kept_places(context)]


class AnswerReplay(Objective):
    """The kept rows' answers are trained on again."""

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        return {"replay": batch.answer_loss(logits_at(model, batch.unmasked, *batch.answers_at))}
