"""What an objective gives of one optimizer step: its loss parts, over its micro-batches and over all processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from seekr.modeling.batches import MicroBatch, Row


class StepLosses:
    """What the micro-batches of one step give on this rank; nothing waits for the device before `sums`."""

    def __init__(self) -> None:
        self._rows: list[list[Row]] = []
        self._names: list[str] = []
        self._values: list[Tensor] = []  # [parts], one a micro-batch

    def __len__(self) -> int:
        return len(self._values)

    def add(self, batch: MicroBatch, parts: dict[str, Tensor]) -> None:
        """Take the parts of one micro-batch. Raises ValueError where a step's micro-batches differ in their parts."""
        if self._names and list(parts) != self._names:
            # Other ranks could not know which sums to expect.
            raise ValueError(
                f"an objective's loss has the parts {self._names} in one micro-batch and {list(parts)} in another"
            )
        self._names = list(parts)
        self._rows.append(batch.rows)
        self._values.append(torch.stack([part.detach().float() for part in parts.values()]))

    def sums(self, accelerator: Accelerator) -> dict[str, float]:
        """Each part's loss of the whole step, the same on all ranks. Every rank has to call it."""
        total = accelerator.reduce(torch.stack(self._values).sum(0), "sum")
        return dict(zip(self._names, total.tolist(), strict=True))

    def rows_at_fault(self) -> list[Row]:
        """Rows of the micro-batches, on any rank, whose loss is not finite. Every rank has to call it."""
        mine = [rows for rows, value in zip(self._rows, self._values, strict=True) if not value.isfinite().all()]
        return [row for rows in gather_object(mine) for row in rows]
