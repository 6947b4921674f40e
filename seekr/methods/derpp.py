"""Dark Experience Replay++ for language models: replay, and the old model's distributions at the kept answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.data.token_rows import TokenizedRow, answer_tokens
from seekr.distributed.processes import in_step, own_share
from seekr.memory.reader import logits_of
from seekr.methods.base import TaskContext, batch_of
from seekr.methods.replay import Replay
from seekr.modeling.batches import MicroBatch, Signals
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import TopLogits, answer_cross_entropy, answer_positions, logits_at


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
    free: ClassVar[frozenset[str]] = Replay.free | {"logit_weight"}

    logit_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    logit_shift: bool = True
    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

    @property
    def signals(self) -> Signals:
        return {m: partial(memory.tensors, logits=bool(self.logit_weight)) for m, memory in enumerate(self.memories)}

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        return self.logit_parts(logits_at(model, batch.unmasked, *self.asked(batch.labels)), batch)

    def asked(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, positions) of the logits of a replay step: where its answers are predicted, then, where these are
        others, those that are compared to the stored ones."""
        rows, positions = answer_positions(labels)
        if self.logit_shift or not self.logit_weight:
            return rows, positions
        return rows.repeat(2), torch.cat([positions, positions + 1])

    def logit_parts(self, logits: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        """The parts of a replay step's loss that logits give; `logits` are those that are `asked` for."""
        count = sum(batch.answers)
        answers = answer_cross_entropy(logits[:count], batch.labels, batch.weights) / batch.step_tokens
        if not self.logit_weight:
            return {"replay": answers}
        compared = logits[len(logits) - count :]
        of_rows = zip(batch.weights, batch.signals, compared.split(batch.answers), strict=True)
        losses = [weight * logits_of(signals).cross_entropy(own).sum() for weight, signals, own in of_rows]
        distilled = torch.stack(losses).sum() / batch.step_tokens
        return {"replay": (1 - self.logit_weight) * answers, "logit": self.logit_weight * distilled}

    def after_task(self, context: TaskContext) -> None:
        samples = self.kept_samples(context)
        writer = self.memory_writer(context, samples)
        context.model.eval()
        own = len(own_share(len(samples)))
        with torch.no_grad(), context.track(f"remembering {context.task}", own) as advance:
            for (place,), counts in in_step(len(samples)):
                batch = batch_of([samples[place]], context)
                asked = answer_positions(batch["labels"], shift=self.logit_shift)
                logits = logits_at(context.model, model_inputs(batch), *asked)
                if counts:
                    writer.add(place, logits=self.stored_logits(logits))
                    advance(1)
        writer.close()

    def likely_logits(self, row: TokenizedRow, vocabulary: int) -> TopLogits | None:
        return self.stored_logits(torch.empty(answer_tokens(row), vocabulary))

    def stored_logits(self, logits: Tensor) -> TopLogits:
        """What is kept of one sample's logits [answer tokens, vocabulary]."""
        exact = self.logit_top_k is None
        k = logits.shape[-1] if self.logit_top_k is None else self.logit_top_k
        return TopLogits.of_logits(logits, k, torch.float32 if exact else torch.float16)
