"""What `lwf` and `kl_anchor` have in common: the model before a task, recorded on the task's rows, and held to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.data.token_rows import IGNORED, TokenizedRow
from seekr.disk.files import clear_folder
from seekr.distributed.processes import is_main, own_share, wait_for_all
from seekr.memory.reader import Memory, compared
from seekr.memory.writer import MemoryWriter
from seekr.methods.base import Method, Objective, TaskContext, batch_of
from seekr.modeling.batches import MicroBatch
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import TopLogits, answer_positions, logits_at
from seekr.modeling.packing import task_logits


class Recorded(Method):
    """Records the model's distributions on the rows of a task before it is trained; a subclass says at which tokens.

    They lie on the disk while the task is trained and are gone with it. Each process records its share of the rows.

    Args:
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.
    """

    part: ClassVar[str]  # what the divergence is called among the parts of the loss
    free = Method.free | {"logit_top_k"}

    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

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

    @abstractmethod
    def held_tokens(self, row: TokenizedRow) -> int:
        """How many of a row's tokens are held."""

    def start(self, context: TaskContext) -> Objective:
        return HeldToRecord(self, self.record(context), context.samples)

    def pretend(self, context: TaskContext) -> Objective:
        return HeldToRecord(self, context.memories()[0] if self.weight else None, context.samples)

    def likely_logits(self, row: TokenizedRow, vocabulary: int) -> TopLogits | None:
        return self.stored_logits(torch.empty(self.held_tokens(row), vocabulary))

    def stored_logits(self, softened: Tensor) -> TopLogits:
        """What is recorded of one row's logits [held tokens, vocabulary]."""
        return TopLogits.of_logits(softened, self.logit_top_k or softened.shape[-1], torch.float32)

    def record(self, context: TaskContext) -> Memory | None:
        """Writes what the model says now, where it has a weight. All processes call it."""
        if not self.weight:
            return None
        folder = context.working / "responses"
        if is_main():  # an interrupted recording is begun again, the old weights being there
            clear_folder(folder)
        wait_for_all()
        writer = context.writer(folder, context.samples)
        self._record(writer, own_share(len(context.samples)), context)
        writer.close()
        return Memory.open(folder, verify=False)

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


class HeldToRecord(Objective):
    """The task's loss + weight · mean over held tokens of KL(model before || model) in nats, where that is recorded."""

    method: Recorded

    def __init__(self, method: Recorded, responses: Memory | None, samples: Sequence[TokenizedRow]) -> None:
        super().__init__(method)
        self.held = [method.held_tokens(sample) for sample in samples]
        self.signals = {} if responses is None else {-1: partial(responses.tensors, logits=True)}

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        if not batch.signals[0]:
            return super().task_loss(model, batch)
        held = self.method.held(batch.inputs, batch.labels)
        places = batch.answers_at if held is batch.labels else answer_positions(held)
        logits = answers = task_logits(model, batch, places)
        if held is not batch.labels:
            there = held[:, 1:] != IGNORED
            place = there.flatten().cumsum(0).view_as(there) - 1  # of each token among the logits
            answers = logits[place[batch.answers_at]]
        softened, counts = logits.float() / self.method.softening, [self.held[row] for _, row in batch.rows]
        divergence = self.method.weight * compared(softened, counts, batch, TopLogits.divergence)
        return {
            "task": batch.answer_loss(answers),
            self.method.part: divergence / max(1, sum(self.held[row] for _, row in batch.step_rows)),
        }
