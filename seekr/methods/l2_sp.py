"""L2-SP: every weight is held near where it was before the task, all of them alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.methods.base import Method, TaskContext
from seekr.modeling.precision import full_precision


@dataclass(kw_only=True)
class L2Sp(Method):
    """A task step's loss is Σ cross-entropy / answer tokens + (pull / 2) · ‖θ − θ_before‖², over all trained weights.

    θ_before are the weights when the task begins: of the first task those of the base model, with an adapter those
    that it was drawn with. It is `ewc` without a measure of what mattered: nothing is measured and nothing kept, and
    each task is held to the one before it alone. In memory lies one copy of the trained weights.

    Args:
        pull: how strongly.

    Source: Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning, arXiv 1802.01483, equation 2
        without its second term, which is for new layers.
    """

    name: ClassVar[str] = "l2_sp"
    shards: ClassVar[bool] = False
    free: ClassVar[frozenset[str]] = Method.free | {"pull"}

    pull: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    start: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def before_task(self, context: TaskContext) -> None:
        super().before_task(context)
        self.start = [weight.detach().clone() for weight in _trained(context.model)]

    @full_precision()
    def penalties(self, model: nn.Module) -> dict[str, Tensor]:
        if not self.pull:
            return {}
        self.start = [before.to(now.device) for before, now in zip(self.start, _trained(model), strict=True)]
        pairs = zip(_trained(model), self.start, strict=True)
        moved = torch.stack([(now.float() - before.float()).square().sum() for now, before in pairs])
        return {"l2_sp": self.pull / 2 * moved.sum()}

    def after_task(self, context: TaskContext) -> None:
        self.start = []


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]
