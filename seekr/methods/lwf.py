"""Learning without forgetting: on the new task's rows the model is held to what it would have answered before."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.attention.tap import model_inputs
from seekr.batches import MicroBatch
from seekr.losses import TopLogits, answer_cross_entropy, answer_positions, logits_at
from seekr.memory import Memory
from seekr.memory_writer import MemoryWriter
from seekr.methods.base import Method, TaskContext, batch_of
from seekr.packing import task_logits
from seekr.processes import is_main, own_share, wait_for_all


@dataclass(kw_only=True)
class Lwf(Method):
    """Distils the old model on the rows of the task at hand; nothing is kept of a task once it is learned.

    Before a task is trained, the model's distributions at the answer tokens of its rows are written to the disk. A task
    step's loss is the task's cross-entropy + distillation_weight · mean over answer tokens of KL(old || new), both
    softened by the temperature (eq. 2-4 of the paper; its cross-entropy is this plus a constant). The first task that
    is learned has nothing before it that was learned, and is trained plainly, unless a skill stands before it.

    Args:
        distillation_weight: λ_o of the paper.
        temperature: what logits are divided by.
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.

    Source: Li and Hoiem, Learning without Forgetting, arXiv 1606.09282.
    """

    name: ClassVar[str] = "lwf"
    free: ClassVar[frozenset[str]] = frozenset({"distillation_weight", "temperature", "logit_top_k"})

    distillation_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

    responses: Memory | None = field(default=None, init=False, repr=False, compare=False)

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        self.responses = None
        if not context.stages or not self.distillation_weight:
            return
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

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        logits = task_logits(model, batch)
        parts = {"task": answer_cross_entropy(logits, batch.labels, batch.weights) / batch.step_tokens}
        if self.responses is None:
            return parts
        rows, _ = answer_positions(batch.labels)
        chosen = logits.float() / self.temperature
        losses = [
            weight * self.response(sample).divergence(chosen[rows == row]).sum()
            for row, ((_, sample), weight) in enumerate(zip(batch.rows, batch.weights, strict=True))
        ]
        parts["distillation"] = self.distillation_weight * torch.stack(losses).sum() / batch.step_tokens
        return parts

    def after_task(self, context: TaskContext) -> None:
        self.responses = None

    def response(self, sample: int) -> TopLogits:
        """What the old model says at the answer tokens of a row of the task, softened by the temperature."""
        assert self.responses is not None
        return self.responses.logits(sample)

    def _record(self, writer: MemoryWriter, places: range, context: TaskContext) -> None:
        model = context.model.to(context.device)
        was_training = model.training
        model.eval()
        with torch.no_grad(), context.track(f"recording {context.task}", len(places)) as advance:
            for start in range(0, len(places), context.micro_batch_rows):
                some = places[start : start + context.micro_batch_rows]
                batch = batch_of([context.samples[place] for place in some], context)
                rows, positions = answer_positions(batch["labels"])
                chosen = logits_at(model, model_inputs(batch), rows, positions).float() / self.temperature
                k = self.logit_top_k or chosen.shape[-1]
                for row, place in enumerate(some):
                    writer.add(place, logits=TopLogits.of_logits(chosen[rows == row], k, torch.float32))
                advance(len(some))
        model.train(was_training)
