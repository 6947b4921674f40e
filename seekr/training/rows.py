"""From slots of the plan to micro-batches: the data side of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset, Sampler

from seekr.data.token_rows import TokenizedRow, answer_tokens
from seekr.memory.reader import Memory
from seekr.modeling.batches import Layout, MicroBatch, Row, Signals
from seekr.training.order import Slot, StepPlan, split


class Rows(Dataset[MicroBatch]):
    """All rows that one task trains on, its own and the kept ones; a slot of the plan gives a micro-batch.

    `signals` say which rows carry teacher signals: a worker of the loader reads them ahead of the step. `kept` are the
    rows of `memories` that are replayed, None = all.
    `plan_layout` may be set before training: what lengths of a task step's rows are packed how.
    """

    def __init__(
        self,
        samples: Sequence[TokenizedRow],
        memories: Sequence[Memory],
        pad_token_id: int | None,
        signals: Signals | None = None,
        kept: Sequence[Row] | None = None,
    ) -> None:
        self.samples = samples
        self.memories = memories
        self.signals = signals
        self.pad_token_id = pad_token_id
        self.plan_layout: Callable[[Sequence[int]], Layout | None] | None = None
        self._lengths: dict[Row, int] = {}
        self._answer_tokens: dict[Row, int] = {}
        if kept is None:
            kept = [(m, i) for m, memory in enumerate(memories) for i in range(len(memory))]
        for row in (*((-1, i) for i in range(len(samples))), *kept):
            encoded = self.encoded(row)
            self._lengths[row] = len(encoded.input_ids)
            self._answer_tokens[row] = answer_tokens(encoded)

    def __len__(self) -> int:
        return len(self._lengths)

    def encoded(self, row: Row) -> TokenizedRow:
        """The tokens of one row."""
        source, i = row
        return self.samples[i] if source < 0 else self.memories[source].encoded(i)

    def length(self, row: Row) -> int:
        """Tokens of one row, prompt and answer."""
        return self._lengths[row]

    def __getitem__(self, slot: Slot) -> MicroBatch:
        pack = self.plan_layout if slot.step.kind == "task" else None
        return MicroBatch.of(
            slot.step.kind,
            [self.encoded(row) for row in slot.rows],
            self.pad_token_id,
            rows=slot.rows,
            step_rows=slot.step.rows,
            step_tokens=max(1, sum(self._answer_tokens[row] for row in slot.step.rows)),
            fillers=len(slot.rows) if slot.filler else 0,
            signals=self.signals,
            layout=None if pack is None else pack([self.length(row) for row in slot.rows]),
        )


@dataclass(eq=False)
class RankSlots(Sampler[list[Slot]]):
    """The slots of one rank, one epoch at a time, each in a list as a batch sampler hands them out.

    `epoch` is asked when an iteration begins: it follows from the optimizer steps taken, so nothing has to be
    passed to a loader that was rebuilt to skip what an interrupted run has already seen.
    """

    plan: StepPlan
    length: Callable[[Row], int]
    accumulation: int
    processes: int
    rank: int
    epoch: Callable[[], int]

    def __len__(self) -> int:
        return len(self.plan) * self.accumulation

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in self.plan.epoch(self.epoch()):
            for slots in split(step, self.length, accumulation=self.accumulation, processes=self.processes):
                yield [slots[self.rank]]
