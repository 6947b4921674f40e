"""L2-SP: every weight is held near where it was before the task, all of them alike."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from seekr.methods.base import Method, Objective, TaskContext
from seekr.modeling.precision import full_precision


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

    name = "l2_sp"
    shards = False
    free = Method.free | {"pull"}

    pull: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    def start(self, context: TaskContext) -> Objective:
        objective = super().start(context)
        before = [weight.detach().to(context.device, copy=True) for weight in _trained(context.model)]

        @full_precision()
        def penalty(model: nn.Module) -> Tensor:
            pairs = zip(_trained(model), before, strict=True)
            moved = torch.stack([(now.float() - then.float()).square().sum() for now, then in pairs])
            return self.pull / 2 * moved.sum()

        if self.pull:
            objective.penalties["l2_sp"] = penalty
        return objective


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]
