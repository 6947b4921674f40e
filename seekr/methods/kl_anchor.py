"""Anchored fine-tuning: on the new task's rows the model is held, token by token, to the one before the task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from seekr.data.token_rows import IGNORED
from seekr.memory.reader import Memory
from seekr.methods.base import TaskContext
from seekr.methods.responses import Recorded
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import answer_cross_entropy, answer_positions
from seekr.modeling.packing import task_logits


@dataclass(kw_only=True)
class KlAnchor(Recorded):
    """A task step's loss is Σ cross-entropy / answer tokens + kl_weight · mean over all predicted tokens of
    KL(π_before || π).

    π_before is the model as it was before the task: of the first task the base model. The mean is over every token of
    the step's rows that a token before it predicts, prompt and answer alike, so that the divergence is that of the
    whole rows. π_before is recorded on the task's rows before it is trained; no row of another task is needed, and
    nothing is kept of a task once it is learned.

    `lwf` differs in that: it holds answer tokens alone, softened by a temperature, and trains the first task plainly.

    Args:
        kl_weight: what the divergence weighs beside the cross-entropy.
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.

    Source: Shenfeld et al., RL's Razor, arXiv 2509.04259: this divergence from the model before, on the new task, tells
        how much is forgotten, whatever the training. As a term of the loss of fine-tuning, beside a cross-entropy that
        is weighted: Zhu et al., Anchored Supervised Fine-Tuning, arXiv 2509.23753.
    """

    name: ClassVar[str] = "kl_anchor"
    unplanned: ClassVar[str] = (
        "on the disk, while a task is learned, 8 bytes for each recorded logit of each token of its rows"
    )
    free: ClassVar[frozenset[str]] = Recorded.free | {"kl_weight"}

    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    predicted: list[int] = field(default_factory=list, init=False, repr=False, compare=False)  # tokens of each row

    @property
    def weight(self) -> float:
        return self.kl_weight

    def held(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        self.predicted = [len(sample.input_ids) - 1 for sample in context.samples]
        if self.weight:
            self.record(context)

    def pretend(self, context: TaskContext, kept: Memory) -> None:
        super().pretend(context, kept)
        self.predicted = [len(sample.input_ids) - 1 for sample in context.samples]

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        if not batch.signals[0]:
            return super().task_loss(model, batch)
        held = self.held(batch.inputs, batch.labels)
        logits = task_logits(model, batch, held)
        there = held[:, 1:] != IGNORED
        place = there.flatten().cumsum(0).view_as(there) - 1  # of each token among the logits
        answers = logits[place[answer_positions(batch.labels)]]
        tokens = max(1, sum(self.predicted[row] for _, row in batch.step_rows))
        return {
            "task": answer_cross_entropy(answers, batch.labels, batch.weights) / batch.step_tokens,
            "kl": self.weight * self.divergence(logits, [n - 1 for n in batch.lengths], batch) / tokens,
        }
