"""What a loss is handed: rows padded to one rectangle, and one rank's share of an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seekr.data.token_rows import IGNORED, TokenizedRow, answer_tokens
from seekr.modeling.flat_tensors import FlatTensors
from seekr.modeling.inputs import position_ids
from seekr.modeling.losses import answer_cross_entropy, answer_positions

StepKind = Literal["task", "replay"]
Row = tuple[int, int]  # (memory, sample) of a kept sample; (-1, index) of a sample of the task being learned
Signals = Mapping[int, Callable[[int], Mapping[str, Tensor]]]
"""Memory, or -1 → what reads the teacher signals of its sample at a place; rows of others have none."""


def collate(rows: Sequence[TokenizedRow], pad_token_id: int | None) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    Returns `input_ids`, `attention_mask` (1 = token), `position_ids` (counted from each row's first token)
    and `labels` (-100 = not an answer token), all int64 `[rows, length]`. Padding is masked, so where a
    tokenizer has no padding token any id will do: 0 is taken.
    """
    mask = padded([np.ones(len(row.input_ids)) for row in rows], 0)
    return {
        "input_ids": padded([row.input_ids for row in rows], pad_token_id or 0),
        "attention_mask": mask,
        "labels": padded([row.labels for row in rows], IGNORED),
        "position_ids": position_ids(mask),
    }


def padded(rows: Sequence[Any], value: int, side: Literal["left", "right"] = "right") -> Tensor:
    """Rows of numbers as int64 [rows, length of the longest], filled up with `value`."""
    tensors = [torch.from_numpy(np.array(row, dtype=np.int64)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)


@dataclass
class MicroBatch:
    """One forward and backward of one rank, with what it takes to weigh it inside its optimizer step.

    A loss over it divides by the totals of the step, so that the sum over all micro-batches and ranks is the
    step's loss. `tensors` are what `collate` makes, `weights`, `answers/rows` and `answers/positions`, of a layout
    what its `tensors` are, and PLACE/NAME: the teacher signals of the row at a place. What a device would have to be
    waited for is found before they are moved.
    """

    kind: StepKind
    tensors: FlatTensors  # see above
    rows: list[Row]  # where each row comes from, fillers included
    lengths: list[int]  # tokens of each row
    answers: list[int]  # answer tokens of each row that are predicted
    step_tokens: int  # answer tokens of the whole optimizer step, fillers not counted, at least 1: a divisor
    step_rows: list[Row]  # the counted rows of the whole optimizer step
    fillers: int = 0  # so many of the last rows weigh nothing and keep all ranks at equally many forwards
    layout: Layout | None = None  # how a task step may pack its rows

    @classmethod
    def of(
        cls,
        kind: StepKind,
        samples: Sequence[TokenizedRow],
        pad_token_id: int | None,
        *,
        rows: Sequence[Row],
        step_rows: Sequence[Row],
        step_tokens: int,
        fillers: int = 0,
        signals: Signals | None = None,
        layout: Layout | None = None,
    ) -> MicroBatch:
        """The micro-batch of `samples`, which are those of `rows`, on the CPU, with the signals that are to be read."""
        tensors = collate(samples, pad_token_id)
        tensors["weights"] = torch.tensor([1.0] * (len(rows) - fillers) + [0.0] * fillers)
        tensors["answers/rows"], tensors["answers/positions"] = answer_positions(tensors["labels"])
        tensors |= {} if layout is None else layout.tensors(tensors)
        for place, (source, sample) in enumerate(rows):
            if signals and source in signals:
                tensors |= {f"{place}/{name}": tensor for name, tensor in signals[source](sample).items()}
        lengths, answers = [len(sample.input_ids) for sample in samples], [answer_tokens(sample) for sample in samples]
        flat = FlatTensors.of(tensors)
        return cls(kind, flat, list(rows), lengths, answers, step_tokens, list(step_rows), fillers, layout)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """input_ids, attention_mask and position_ids, each [rows, length]."""
        return {name: self.tensors[name] for name in ("input_ids", "attention_mask", "position_ids")}

    @cached_property
    def labels(self) -> Tensor:
        """[rows, length], -100 = not an answer token."""
        return self.tensors["labels"]

    @cached_property
    def weights(self) -> Tensor:
        """[rows] float32: 1 = counts, 0 = a filler."""
        return self.tensors["weights"]

    @cached_property
    def answers_at(self) -> tuple[Tensor, Tensor]:
        """(rows, positions) of the logits that predict the answer tokens, row by row."""
        return self.tensors["answers/rows"], self.tensors["answers/positions"]

    def answer_loss(self, logits: Tensor) -> Tensor:
        """This micro-batch's share of the mean cross-entropy of its step; logits [answer tokens, vocabulary] of
        `answers_at`. Tensor[], float32."""
        return answer_cross_entropy(logits, self.labels, self.weights, self.answers_at) / self.step_tokens

    @cached_property
    def signals(self) -> list[FlatTensors]:
        """The teacher signals of each row, by name."""
        return [self.tensors.part(f"{place}/") for place in range(len(self.rows))]

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
        """The same micro-batch with its tensors on `device`, moved all together."""
        return replace(self, tensors=self.tensors.to(device))

    def pin_memory(self) -> MicroBatch:
        """The same micro-batch in page-locked memory; a DataLoader asks for it by this name."""
        return replace(self, tensors=self.tensors.pin_memory())


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each row lies: in which of the longer rows, from which of their tokens on."""

    width: int
    rows: tuple[int, ...]
    starts: tuple[int, ...]

    def tensors(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of rows [rows, length] on the CPU, padded on the right: `packed/input_ids` and `packed/position_ids` of the
        longer rows, and `packed/places` [rows, length], where each token stands among theirs."""
        mask = batch["attention_mask"].bool()
        first = torch.tensor(self.rows) * self.width + torch.tensor(self.starts)
        places = first[:, None] + torch.arange(mask.shape[1])
        ids = torch.zeros(max(self.rows) + 1, self.width, dtype=torch.long)
        ids.view(-1)[places[mask]] = batch["input_ids"][mask]
        filled = torch.zeros_like(ids, dtype=torch.bool)
        filled.view(-1)[places[mask]] = True
        # Padding after the last row is a row of its own.
        positions = torch.arange(self.width) - filled.sum(dim=1, keepdim=True)
        positions.view(-1)[places[mask]] = torch.arange(mask.shape[1]).expand_as(mask)[mask]
        return {"packed/input_ids": ids, "packed/position_ids": positions, "packed/places": places}
