"""What a loss is handed: rows padded to one rectangle, and one rank's share of an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seekr.data.token_rows import IGNORED, TokenizedRow
from seekr.modeling.inputs import position_ids

StepKind = Literal["task", "replay"]
Row = tuple[int, int]  # (memory, sample) of a kept sample; (-1, index) of a sample of the task being learned


def collate(rows: Sequence[TokenizedRow], pad_token_id: int | None) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    Returns `input_ids`, `attention_mask` (1 = token), `position_ids` (counted from each row's first token)
    and `labels` (-100 = not an answer token), all int64 `[rows, length]`. Padding is masked, so where a
    tokenizer has no padding token any id will do: 0 is taken.
    """
    length = max(len(row.input_ids) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), length), 0 if pad_token_id is None else pad_token_id),
        "attention_mask": torch.zeros((len(rows), length), dtype=torch.long),
        "labels": torch.full((len(rows), length), IGNORED),
    }
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        batch["input_ids"][i, :n] = torch.as_tensor(np.array(row.input_ids, dtype=np.int64))
        batch["labels"][i, :n] = torch.as_tensor(np.array(row.labels, dtype=np.int64))
        batch["attention_mask"][i, :n] = 1
    batch["position_ids"] = position_ids(batch["attention_mask"])
    return batch


@dataclass
class MicroBatch:
    """One forward and backward of one rank, with what it takes to weigh it inside its optimizer step.

    A loss over it divides by the totals of the step, so that the sum over all micro-batches and ranks is the
    step's loss.
    """

    kind: StepKind
    inputs: dict[str, Tensor]  # input_ids, attention_mask, position_ids: [rows, length]
    labels: Tensor  # [rows, length], -100 = not an answer token
    weights: Tensor  # [rows] float32: 1 = counts, 0 = a filler that keeps all ranks at equally many forwards
    rows: list[Row]  # where each row comes from, fillers included
    step_tokens: int  # answer tokens of the whole optimizer step, fillers not counted, at least 1: a divisor
    step_rows: list[Row]  # the counted rows of the whole optimizer step
    layout: Layout | None = None  # how a task step may pack its rows

    @property
    def share(self) -> Tensor:
        """The counted rows of this micro-batch over those of its step, Tensor[]: what of the step it weighs."""
        return self.weights.sum() / len(self.step_rows)

    @property
    def unmasked(self) -> dict[str, Tensor]:
        """The forward arguments of a causal model, which no token of the padding on the right can reach.

        Without a mask attention takes its causal path and builds none of [rows, length, length]. Positions go on
        counting in the padding: transformers takes one that stands still for the beginning of another sequence.
        """
        ids = self.inputs["input_ids"]
        return {"input_ids": ids, "position_ids": torch.arange(ids.shape[1], device=ids.device).expand_as(ids)}

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> MicroBatch:
        """The same micro-batch in page-locked memory; a DataLoader asks for it by this name."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> MicroBatch:
        inputs = {name: function(tensor) for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, labels=function(self.labels), weights=function(self.weights))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each row lies: in which of the longer rows, from which of their tokens on."""

    width: int
    rows: tuple[int, ...]
    starts: tuple[int, ...]
