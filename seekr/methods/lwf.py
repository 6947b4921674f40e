"""Learning without forgetting: on the new task's rows the model is held to what it would have answered before."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from seekr.data.token_rows import TokenizedRow, answer_tokens
from seekr.memory.reader import Memory
from seekr.methods.base import TaskContext
from seekr.methods.responses import Recorded


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

    name = "lwf"
    part = "distillation"
    unplanned = "on the disk, while a task is learned, 8 bytes for each recorded logit of each answer token of its rows"
    free = Recorded.free | {"distillation_weight", "temperature"}

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

    def held_tokens(self, row: TokenizedRow) -> int:
        return answer_tokens(row)

    def record(self, context: TaskContext) -> Memory | None:
        return super().record(context) if context.stages else None
