"""Learning without forgetting: on the new task's rows the model is held to what it would have answered before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from seekr.methods.base import TaskContext
from seekr.methods.responses import Recorded
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import answer_cross_entropy
from seekr.modeling.packing import task_logits


@dataclass(kw_only=True)
class Lwf(Recorded):
    """Distils the old model on the rows of the task at hand; nothing is kept of a task once it is learned.

    Before a task is trained, the model's distributions at the answer tokens of its rows are written to the disk. A task
    step's loss is the task's cross-entropy + distillation_weight · mean over answer tokens of KL(old || new), both
    softened by the temperature (eq. 2-4 of the paper; its cross-entropy is this plus a constant). The first task that
    is learned has nothing before it that was learned, and is trained plainly, unless a skill stands before it.

    `kl_anchor` differs in that: it holds all tokens of a row, the prompt's too, at temperature 1, and the first task
    to the base model.

    Args:
        distillation_weight: λ_o of the paper.
        temperature: what logits are divided by.
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.

    Source: Li and Hoiem, Learning without Forgetting, arXiv 1606.09282.
    """

    name: ClassVar[str] = "lwf"
    unplanned: ClassVar[str] = (
        "on the disk, while a task is learned, 8 bytes for each recorded logit of each answer token of its rows"
    )
    free: ClassVar[frozenset[str]] = Recorded.free | {"distillation_weight", "temperature"}

    distillation_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    @property
    def weight(self) -> float:
        return self.distillation_weight

    @property
    def softening(self) -> float:
        return self.temperature

    def held(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return labels

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        if context.stages and self.weight:
            self.record(context)

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        logits = task_logits(model, batch)
        parts = {"task": answer_cross_entropy(logits, batch.labels, batch.weights) / batch.step_tokens}
        if batch.signals[0]:
            divergence = self.divergence(logits, batch.answers, batch)
            parts["distillation"] = self.weight * divergence / batch.step_tokens
        return parts
