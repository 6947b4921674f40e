"""Whether weights in 16 bits move at all: a change below half the distance to the next number rounds away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerState, TrainingArguments

from seekr.errors import say

STEPS = 10  # that are looked at
REPORTED_FROM = 0.25  # of the weights
_SAMPLED = 1024  # weights of each parameter


class RoundingWatch(TrainerCallback):
    """Measures over the first steps at the full learning rate which share of the weights stays as it was, and says so.

    Only weights in 16 bits are looked at that have a gradient other than 0. Warm-up is waited for: in it most of them
    may rightly stand still.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.share: float | None = None
        """Of the weights that did not move; None = nothing was measured."""
        self._before: list[Tensor] = []
        self._asked: list[Tensor] = []
        self._steps = 0

    def on_pre_optimizer_step(  # type: ignore[override]
        self, args: TrainingArguments, *_: Any, model: nn.Module, optimizer: Optimizer, **__: Any
    ) -> None:
        if self.share is not None or args.deepspeed:  # which keeps float32 weights besides
            return
        if not self._steps and optimizer.param_groups[0]["lr"] < args.learning_rate / 2:
            return
        if not self._before:
            self._before = [_some(weight).clone() for weight in _halves(model)]
            self._asked = [torch.zeros_like(before, dtype=torch.bool) for before in self._before]
        for asked, weight in zip(self._asked, _halves(model), strict=True):
            if weight.grad is not None:
                asked |= _some(weight.grad) != 0
        self._steps += 1

    def on_step_end(  # type: ignore[override]
        self, args: TrainingArguments, state: TrainerState, *_: Any, model: nn.Module, **__: Any
    ) -> None:
        last = self._steps == STEPS or state.global_step >= state.max_steps
        if not self._before or not last or self.share is not None:
            return
        pairs = zip(self._before, _halves(model), self._asked, strict=True)
        still = [asked & (_some(weight) == before) for before, weight, asked in pairs]
        count = sum(int(asked.sum()) for asked in self._asked)
        self.share = sum(int(one.sum()) for one in still) / max(count, 1)
        self._before, self._asked = [], []
        if self.share >= REPORTED_FROM and state.is_world_process_zero:
            name = str(next(_halves(model)).dtype).removeprefix("torch.")
            say(
                f"task {self.task}: {self.share:.0%} of the weights did not move in the first {self._steps} "
                f"steps: changes at a learning rate of {args.learning_rate:g} round away in {name}; set dtype: float32 "
                "and training.bf16: true (mixed precision), or train an adapter (lora)"
            )


def _halves(model: nn.Module) -> Iterator[nn.Parameter]:
    """The trained parameters in 16 bits, as far as this process holds something of them."""
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in (torch.bfloat16, torch.float16) and len(_local(weight)):
            yield weight


def _some(tensor: Tensor) -> Tensor:
    flat = _local(tensor)
    return flat[torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), device=flat.device).long()]


def _local(tensor: Tensor) -> Tensor:
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here.detach().flatten()
