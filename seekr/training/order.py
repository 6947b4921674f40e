"""Which rows meet in which optimizer step: pure data, a function of (seed, task, epoch) and of nothing else.

A step is a task step or a replay step, never both, so that the two kinds keep their own divisors and their
own line in the log. With B rows a step an epoch has T = ceil(N / B) task steps, and one pass over the kept rows
is ceil(M / B) replay steps. An epoch has R = ceil(M / B) of them, every kept row once, or with `replay_passes`
R = min(passes * ceil(M / B), T), one pass after the other over all epochs; replay step r = 1..R comes just before
task step max(1, floor(r * T / R)), several before one if R > T.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np

from seekr.modeling.batches import Row, StepKind


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its kind and its rows, each of which counts once."""

    kind: StepKind
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """What one rank does in one micro-batch of a step: some rows that count, or one filler that does not."""

    step: Step
    rows: tuple[Row, ...]
    filler: bool


@dataclass(frozen=True)
class StepPlan:
    """The optimizer steps of every epoch of one task.

    `task_rows` is N (at least 1), `memory_sizes` the kept samples of each past task (M in all, none = no
    replay steps), `batch_rows` is B: per-device batch times accumulation times processes. `seed` and `task`
    are at least 0. `replay_passes` says how often each kept row comes in an epoch, as long as there are no more
    replay steps than task steps; None = once, whatever steps that takes, the rule of SEEKR's paper. `replay_limit` says
    how many of the kept rows are replayed in this task at most, None = all.
    """

    task_rows: int
    memory_sizes: tuple[int, ...]
    batch_rows: int
    seed: int
    task: int
    replay_passes: int | None = None
    replay_limit: int | None = None

    @property
    def task_steps(self) -> int:
        """T: task steps of an epoch."""
        return -(-self.task_rows // self.batch_rows)

    @property
    def replay_steps(self) -> int:
        """R: replay steps of an epoch."""
        if self.replay_passes is None:
            return self.pass_steps
        return min(self.replay_passes * self.pass_steps, self.task_steps)

    @property
    def pass_steps(self) -> int:
        """Replay steps in which every row that is replayed comes once."""
        return -(-len(self.kept) // self.batch_rows)

    @cached_property
    def kept(self) -> list[Row]:
        """The rows that are replayed, memory after memory: all, or as many of each as `quotas` say, drawn for the task.

        Another task draws others, so that in the long run every kept row has its turn.
        """
        sizes, limit = self.memory_sizes, self.replay_limit
        if limit is None or sum(sizes) <= limit:
            return [(m, i) for m, size in enumerate(sizes) for i in range(size)]
        draw = np.random.default_rng([self.seed, self.task, 0, 2])
        shares = enumerate(quotas(sizes, limit, draw))
        return [(m, int(i)) for m, few in shares for i in np.sort(draw.choice(sizes[m], few, replace=False))]

    def __len__(self) -> int:
        """Optimizer steps of one epoch, both kinds."""
        return self.task_steps + self.replay_steps

    @cached_property
    def kinds(self) -> tuple[StepKind, ...]:
        """The kind of each step of an epoch, the same in every epoch."""
        replays_before = Counter(
            max(1, r * self.task_steps // self.replay_steps) for r in range(1, self.replay_steps + 1)
        )
        kinds: list[StepKind] = []
        for t in range(1, self.task_steps + 1):
            kinds.extend(["replay"] * replays_before[t])
            kinds.append("task")
        return tuple(kinds)

    def epoch(self, epoch: int) -> list[Step]:
        """The steps of one epoch, counted from 0: every row of the task once, and the next steps of replay."""
        samples: list[Row] = [(-1, i) for i in range(self.task_rows)]
        # A stream for each kind: the task's order does not depend on how much is replayed, so methods compare
        # like with like.
        batches = {
            "task": iter(self._batches(samples, np.random.default_rng([self.seed, self.task, epoch, 0]))),
            "replay": self.replayed(epoch * self.replay_steps),
        }
        return [Step(kind, next(batches[kind])) for kind in self.kinds]

    def replayed(self, first: int) -> Iterator[tuple[Row, ...]]:
        """The rows of replay step `first`, counted over all epochs, and of those after it: pass after pass."""
        for number in count(first // max(1, self.pass_steps)):
            batches = self._batches(self.kept, np.random.default_rng([self.seed, self.task, number, 1]))
            yield from batches[max(0, first - number * self.pass_steps) :]

    def kind_of(self, step: int) -> tuple[StepKind, int]:
        """Kind of a step, counted from 0 over all epochs, and how many steps of that kind came before it."""
        epoch, i = divmod(step, len(self))
        kind = self.kinds[i]
        return kind, epoch * self.kinds.count(kind) + self.kinds[:i].count(kind)

    def _batches(self, rows: list[Row], generator: np.random.Generator) -> list[tuple[Row, ...]]:
        shuffled = [rows[i] for i in generator.permutation(len(rows))]
        return [tuple(shuffled[i : i + self.batch_rows]) for i in range(0, len(shuffled), self.batch_rows)]


def quotas(sizes: Sequence[int], limit: int, draw: np.random.Generator) -> list[int]:
    """How many rows of each memory make up `limit`, which is less than all: even shares, and what small memories leave
    goes to the others; who gets what cannot be shared evenly is drawn.
    """
    level = bisect_right(range(limit + 1), limit, key=lambda share: sum(min(size, share) for size in sizes)) - 1
    shares = [min(size, level) for size in sizes]
    larger = [m for m, size in enumerate(sizes) if size > level]
    for m in draw.choice(larger, limit - sum(shares), replace=False):
        shares[m] += 1
    return shares


def split(step: Step, length: Callable[[Row], int], *, accumulation: int, processes: int) -> list[list[Slot]]:
    """Spread a step's rows evenly over its slots, `[accumulation][processes]`: every rank runs equally often.

    Sizes differ by at most one. Rows go in by falling length: ranks that work at the same time get rows of
    like length, little is padded, and what does not fit into memory fails early. A slot that is left empty
    repeats the shortest row as a filler.
    """
    ordered = sorted(step.rows, key=length, reverse=True)
    slots: list[Slot] = []
    for i in range(accumulation * processes):
        rows = _share(ordered, i, accumulation * processes)
        slots.append(Slot(step, rows or (ordered[-1],), filler=not rows))
    return [slots[i : i + processes] for i in range(0, len(slots), processes)]


def _share(rows: Sequence[Row], i: int, shares: int) -> tuple[Row, ...]:
    size, rest = divmod(len(rows), shares)
    start = i * size + min(i, rest)
    return tuple(rows[start : start + size + (i < rest)])


def task_seed(seed: int, task: int, process: int = 0) -> int:
    """Seed of the random state (dropout and the like) that one process starts a task with, in [0, 2**32)."""
    return int(np.random.SeedSequence([seed, task, process]).generate_state(1)[0])
