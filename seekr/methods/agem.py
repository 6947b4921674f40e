"""Averaged gradient episodic memory: no step goes against the gradient of what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seekr.distributed.processes import process_count, process_index
from seekr.methods.base import Objective, TaskContext
from seekr.methods.replay import AnswerReplay, Replay
from seekr.modeling.batches import MicroBatch, Row


class AGem(Replay):
    """Keeps rows as `Replay` does, and where a step's gradient g is against theirs, takes that part out of it:
    g ← g − (g·g_ref / g_ref·g_ref) g_ref if g·g_ref < 0 (eq. 11 of the paper).

    g_ref is the gradient of the answer loss of rows drawn again for every step out of all kept ones.

    Args:
        replay_passes, replay_limit: null, as there are no replay steps here.
        reference_rows: kept rows of which g_ref is taken in each step; all where fewer are kept.

    Source: Chaudhry et al., Efficient Lifelong Learning with A-GEM, arXiv 1812.00420.
    """

    name = "agem"
    replays = False
    shards = False
    unplanned = "the reference gradient: as many bytes as the gradients, and the activations of `reference_rows` rows"

    replay_passes: None = None
    replay_limit: None = None
    reference_rows: Annotated[int, Field(ge=1)] = 16

    def start(self, context: TaskContext) -> Objective:
        return Projected(self, context)


class Projected(AnswerReplay):
    """Plain fine-tuning whose gradients are projected; `kept` are the memories of the tasks before."""

    method: AGem

    def __init__(self, method: AGem, context: TaskContext) -> None:
        super().__init__(method)
        self.kept = context.memories()
        self.context = context

    def after_backward(self, model: nn.Module, step: int) -> None:
        if not self.kept:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        batches = list(self._reference_batches(step))
        for number, batch in enumerate(batches, start=1):
            parallel = isinstance(model, DistributedDataParallel) and number < len(batches)
            with model.no_sync() if parallel else nullcontext():  # type: ignore[operator]
                self.replay_loss(model, batch)["replay"].backward()
        references = [parameter.grad for parameter in parameters]
        pairs = zip(gradients, references, strict=True)
        project([(one, other) for one, other in pairs if one is not None and other is not None])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def reference(self, step: int) -> list[Row]:
        """The kept rows (memory, sample) of which a step's reference gradient is taken."""
        kept = [(memory, sample) for memory, rows in enumerate(self.kept) for sample in range(len(rows))]
        draw = np.random.default_rng([self.context.seed, self.context.index, step])
        chosen = draw.choice(len(kept), size=min(self.method.reference_rows, len(kept)), replace=False)
        return [kept[index] for index in chosen]

    def _reference_batches(self, step: int) -> Iterator[MicroBatch]:
        """This process's share of the reference rows; every process has equally many micro-batches."""
        chosen = self.reference(step)
        processes, rank = process_count(), process_index()
        share = -(-len(chosen) // processes)
        own = chosen[rank::processes]
        counted = len(own)
        own += [chosen[0]] * (share - counted)
        for start in range(0, share, self.context.micro_batch_rows):
            rows = own[start : start + self.context.micro_batch_rows]
            yield MicroBatch.of(
                "replay",
                [self.kept[m].encoded(i) for m, i in rows],
                self.context.pad_token_id,
                rows=rows,
                step_rows=chosen,
                # The sum in place of the mean: its scale does not matter, and float16 loses less of it.
                step_tokens=1,
                fillers=min(len(rows), max(0, start + len(rows) - counted)),
            ).to(self.context.device)


def project(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Takes out of the first tensors, in place, what goes against the second ones: eq. 11 over all pairs together.

    Returns whether there was anything to take out. A reference that is not finite changes nothing.
    """
    against = sum(_dot(gradient, reference) for gradient, reference in pairs)
    length = sum(_dot(reference, reference) for _, reference in pairs)
    factor = float(against) / float(length) if float(length) else 0.0
    if not factor < 0 or not np.isfinite(float(length)):
        return False
    for gradient, reference in pairs:
        gradient.sub_(reference.to(gradient.dtype), alpha=factor)
    return True


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.float() * other.float()).sum(dtype=torch.float64)
