"""Anchored fine-tuning: on the new task's rows the model is held, token by token, to the one before the task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from seekr.data.token_rows import IGNORED, TokenizedRow
from seekr.methods.responses import Recorded


class KlAnchor(Recorded):
    """A task step's loss is Σ cross-entropy / answer tokens + kl_weight · mean over all predicted tokens of
    KL(π_before || π).

    π_before is the model as it was before the task: of the first task the base model. The mean is over every token of
    the step's rows that a token before it predicts, prompt and answer alike, so that the divergence is that of the
    whole rows. π_before is recorded on the task's rows before it is trained; no row of another task is needed, and
    nothing is kept of a task once it is learned.

    `lwf` differs in that: it holds answer tokens alone, softened by a temperature, and trains the first task plainly.

    Args:
        kl_weight: what the divergence weighs against the cross-entropy.
        logit_top_k: recorded entries of each distribution; the rest is one bucket. null = all entries.

    Source: Shenfeld et al., RL's Razor, arXiv 2509.04259: this divergence from the model before, on the new task, tells
        how much is forgotten, whatever the training. As a term of the loss of fine-tuning, next to a cross-entropy that
        is weighted: Zhu et al., Anchored Supervised Fine-Tuning, arXiv 2509.23753.
    """

    name = "kl_anchor"
    part = "kl"
    unplanned = "on the disk, while a task is learned, 8 bytes for each recorded logit of each token of its rows"
    free = Recorded.free | {"kl_weight"}

    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    @property
    def weight(self) -> float:
        return self.kl_weight

    def held(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)

    def held_tokens(self, row: TokenizedRow) -> int:
        return len(row.input_ids) - 1
