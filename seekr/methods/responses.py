"""What `lwf` and `kl_anchor` have in common: the model before a task, recorded on the task's rows, and held to."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from seekr.data.token_rows import TokenizedRow
from seekr.distributed.processes import is_main, own_share, wait_for_all
from seekr.memory.reader import Memory, logits_of
from seekr.memory.writer import MemoryWriter
from seekr.methods.base import Method, TaskContext, batch_of
from seekr.modeling.batches import MicroBatch, Signals, collate
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import TopLogits, answer_positions, logits_at


@dataclass(kw_only=True)
class Recorded(Method):
    """Records the model's distributions on the rows of a task before it is trained; a subclass says at which tokens.

    They lie on the disk while the task is trained and are gone with it. Each process records its share of the rows.

    Args:
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.
    """

    free: ClassVar[frozenset[str]] = Method.free | {"logit_top_k"}

    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

    responses: Memory | None = field(default=None, init=False, repr=False, compare=False)

    @property
    @abstractmethod
    def weight(self) -> float:
        """What the divergence is multiplied by; nothing is recorded where it is 0."""

    @property
    def softening(self) -> float:
        """What logits are divided by."""
        return 1.0

    @abstractmethod
    def held(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Labels [rows, length] of the tokens whose distributions are held, −100 elsewhere."""

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        self.responses = None

    def after_task(self, context: TaskContext) -> None:
        self.responses = None

    def record(self, context: TaskContext) -> None:
        """Writes what the model says now. All processes call it."""
        folder = context.working / "responses"
        if is_main():  # an interrupted recording is begun again, the old weights being there
            shutil.rmtree(folder, ignore_errors=True)
        wait_for_all()
        writer = MemoryWriter(
            folder,
            context.samples,
            task=context.task,
            tokenizer_fingerprint=context.tokenizer_fingerprint,
            model_fingerprint=context.model_fingerprint,
        )
        self._record(writer, own_share(len(context.samples)), context)
        writer.close()
        self.responses = Memory.open(folder, verify=False)

    @property
    def signals(self) -> Signals:
        return {} if self.responses is None else {-1: partial(self.responses.tensors, logits=True)}

    def pretend(self, context: TaskContext, kept: Memory) -> None:
        self.responses = kept if self.weight else None

    def likely_logits(self, row: TokenizedRow, vocabulary: int) -> TopLogits | None:
        batch = collate([row], None)
        held, _ = answer_positions(self.held(batch, batch["labels"]))
        return self.stored_logits(torch.empty(len(held), vocabulary))

    def stored_logits(self, softened: Tensor) -> TopLogits:
        """What is recorded of one row's logits [held tokens, vocabulary]."""
        return TopLogits.of_logits(softened, self.logit_top_k or softened.shape[-1], torch.float32)

    def divergence(self, logits: Tensor, held: list[int], batch: MicroBatch) -> Tensor:
        """Σ over rows of weight · Σ over their held tokens of KL(model before || model), in nats; Tensor[].

        `logits` [held tokens, vocabulary] are those of row after row, which have `held` each.
        """
        softened = logits.float() / self.softening
        of_rows = zip(batch.weights, batch.signals, softened.split(held), strict=True)
        losses = [weight * logits_of(signals).divergence(own).sum() for weight, signals, own in of_rows]
        return torch.stack(losses).sum()

    def _record(self, writer: MemoryWriter, places: range, context: TaskContext) -> None:
        model = context.model.to(context.device)
        was_training = model.training
        model.eval()
        with torch.no_grad(), context.track(f"recording {context.task}", len(places)) as advance:
            for start in range(0, len(places), context.micro_batch_rows):
                some = places[start : start + context.micro_batch_rows]
                batch = batch_of([context.samples[place] for place in some], context)
                rows, positions = answer_positions(self.held(batch, batch["labels"]))
                softened = logits_at(model, model_inputs(batch), rows, positions).float() / self.softening
                for row, place in enumerate(some):
                    writer.add(place, logits=self.stored_logits(softened[rows == row]))
                advance(len(some))
        model.train(was_training)
