"""Dark Experience Replay++ for language models: replay, and the old model's distributions at the kept answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.attention.tap import model_inputs
from seekr.batches import MicroBatch
from seekr.losses import TopLogits, answer_cross_entropy, answer_positions
from seekr.methods.base import TaskContext, batch_of
from seekr.methods.replay import Replay
from seekr.processes import own_share


@dataclass(kw_only=True)
class Derpp(Replay):
    """Replay whose kept rows also carry the logits of the model that had just learned them.

    A replay step's loss is (1 − logit_weight)·replay + logit_weight·cross-entropy to the stored distributions.

    Args:
        logit_weight: 0..1.
        logit_shift: whether logits are compared where they predict the answer tokens (True) or at the answer tokens'
            own positions, as the released code of SEEKR has it.
        logit_top_k: stored entries of each distribution; the rest is one bucket. null = all entries, in float32.

    Source: Buzzega et al., arXiv 2004.07211; with distributions in place of raw logits, as in SEEKR, arXiv 2411.06171.
    """

    name: ClassVar[str] = "derpp"

    logit_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    logit_shift: bool = True
    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        return self._logit_parts(model(**batch.inputs, use_cache=False).logits, batch)

    def _logit_parts(self, logits: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        answers = answer_cross_entropy(logits, batch.labels, batch.weights) / batch.step_tokens
        if not self.logit_weight:
            return {"replay": answers}
        rows, positions = answer_positions(batch.labels, shift=self.logit_shift)
        chosen = logits[rows, positions]
        losses = [
            weight * self.memories[memory].logits(sample).cross_entropy(chosen[rows == row]).sum()
            for row, ((memory, sample), weight) in enumerate(zip(batch.rows, batch.weights, strict=True))
        ]
        distilled = torch.stack(losses).sum() / batch.step_tokens
        return {"replay": (1 - self.logit_weight) * answers, "logit": self.logit_weight * distilled}

    def after_task(self, context: TaskContext) -> None:
        samples = self.kept_samples(context)
        writer = self.memory_writer(context, samples)
        context.model.eval()
        own = own_share(len(samples))
        with torch.no_grad(), context.track(f"remembering {context.task}", len(own)) as advance:
            for place in own:
                batch = batch_of([samples[place]], context)
                logits = context.model(**model_inputs(batch), use_cache=False).logits
                writer.add(place, logits=self.stored_logits(logits[0], batch["labels"]))
                advance(1)
        writer.close()

    def stored_logits(self, logits: Tensor, labels: Tensor) -> TopLogits:
        """What is kept of one sample's logits [length, vocabulary] at the answer tokens of labels [1, length]."""
        _, positions = answer_positions(labels, shift=self.logit_shift)
        exact = self.logit_top_k is None
        k = logits.shape[-1] if self.logit_top_k is None else self.logit_top_k
        return TopLogits.of_logits(logits[positions], k, torch.float32 if exact else torch.float16)
