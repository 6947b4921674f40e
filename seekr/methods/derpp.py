"""Dark Experience Replay++ for language models: replay, and the old model's distributions at the kept answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.data.token_rows import TokenizedRow, answer_tokens
from seekr.distributed.processes import own_share
from seekr.memory.reader import Memory, compared
from seekr.memory.writer import MemoryWriter
from seekr.methods.base import Objective, TaskContext
from seekr.methods.replay import AnswerReplay, Rehearsal, Replay
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import TopLogits, logits_at


class LogitRehearsal(Rehearsal):
    """Rehearsal of rows that also carry the logits of the model that had just learned them.

    A replay step's loss is (1 − logit_weight)·replay + logit_weight·cross-entropy to the stored distributions.

    Args:
        logit_weight: 0..1.
        logit_shift: whether logits are compared where they predict the answer tokens (True) or at the answer tokens'
            own positions, as the released code of SEEKR has it.
        logit_top_k: stored entries of each distribution; the rest is one bucket. null = all entries, in float32.
    """

    free = Rehearsal.free | {"logit_weight"}

    logit_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    logit_shift: bool = True
    logit_top_k: Annotated[int, Field(ge=1)] | None = 128

    @property
    def keeps_logits(self) -> bool:
        """Whether logits are kept with each row."""
        return True

    def start(self, context: TaskContext) -> Objective:
        return LogitReplay(self, context.memories())

    def remember(self, context: TaskContext) -> None:
        if not self.keeps_logits:
            super().remember(context)
            return
        self.keep(self.kept_samples(context), context)

    def keep(self, rows: Sequence[TokenizedRow], context: TaskContext, queries: Any = (), **heads: Any) -> MemoryWriter:
        """Writes rows with what the model says of them, of the heads too where there are any: the closed writer."""
        writer = self.memory_writer(context, rows, **heads)
        with context.track(f"remembering {context.task}", len(own_share(len(rows)))) as advance:
            writer.ask(context.model, self.stored_logits, shift=self.logit_shift, queries=queries, advance=advance)
        writer.close()
        return writer

    def likely_logits(self, row: TokenizedRow, vocabulary: int) -> TopLogits | None:
        return self.stored_logits(torch.empty(answer_tokens(row), vocabulary)) if self.keeps_logits else None

    def stored_logits(self, logits: Tensor) -> TopLogits:
        """What is kept of one sample's logits [answer tokens, vocabulary]."""
        dtype = torch.float32 if self.logit_top_k is None else torch.float16
        return TopLogits.of_logits(logits, self.logit_top_k or logits.shape[-1], dtype)


class Derpp(LogitRehearsal, Replay):
    """`Replay` whose kept rows carry logits too: all settings are those of the two.

    Source: Buzzega et al., arXiv 2004.07211; with distributions in place of raw logits, as in SEEKR, arXiv 2411.06171.
    """

    name = "derpp"


class LogitReplay(AnswerReplay):
    """The answers are trained on again, and the model is held to the distributions that were stored at them."""

    method: LogitRehearsal

    def __init__(self, method: LogitRehearsal, memories: Sequence[Memory], *, attention: bool = False) -> None:
        super().__init__(method, memories)
        wanted = {"logits": bool(method.logit_weight), "attention": attention}
        self.signals = {m: partial(memory.tensors, **wanted) for m, memory in enumerate(memories)}

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        return self.logit_parts(logits_at(model, batch.unmasked, *self.asked(batch)), batch)

    def asked(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """(rows, positions) of the logits of a replay step: where its answers are predicted, then, where these are
        others, those that are compared to the stored ones."""
        rows, positions = batch.answers_at
        if self.method.logit_shift or not self.method.logit_weight:
            return rows, positions
        return rows.repeat(2), torch.cat([positions, positions + 1])

    def logit_parts(self, logits: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        """The parts of a replay step's loss that logits give; `logits` are those that are `asked` for."""
        weight, count = self.method.logit_weight, sum(batch.answers)
        answers = batch.answer_loss(logits[:count])
        if not weight:
            return {"replay": answers}
        distilled = compared(logits[len(logits) - count :], batch.answers, batch, TopLogits.cross_entropy)
        return {"replay": (1 - weight) * answers, "logit": weight * (distilled / batch.step_tokens)}
