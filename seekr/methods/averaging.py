"""Weight averaging: once a task is trained, the model is moved back part of the way to the one before it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seekr.methods.base import Coefficient, Method

_FACTOR = re.compile(r"(?<=\.lora_)((?:embedding_)?)([AB])(?=\.)")


class Averaging(Method):
    """Plain fine-tuning on each task, then θ ← (1 − average) · θ_before + average · θ_trained.

    θ_before is the stage before, the base model in the first task. It happens once a task is trained, before anything
    is measured, kept, saved or scored, in float32 whatever the weights' dtype. All other methods do the same as their
    last step where they are given an `average`, but for those that learn prompts.

    Of a LoRA adapter the tensors are averaged. That is exact, (1 − c) · B₀A₀ + c · B₁A₁, for each of its ranks that
    adds nothing before the task (B₀ = 0, of embeddings A₀ = 0), where that factor alone is scaled: all ranks in the
    first task, and in every task of `olora`, whose earlier adapters do not move. Else the average of the factors is
    that of the products less c (1 − c) (B₁ − B₀)(A₁ − A₀), whose rank is up to twice the adapter's. What DoRA makes
    of its magnitudes is not linear either.

    Args:
        average: c, 0 < c ≤ 1: the share of the trained weights. Chosen on eval rows by
            `seekr tune CONFIG 'method.average=[0.25,0.5,0.75]'`.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), arXiv 2109.01903: weight-space ensembles
        of the model before and after fine-tuning. Against forgetting in language models: Lin et al., arXiv 2309.06256,
        where it beats replay and penalties, and Xiao et al. (LM-Cocktail), arXiv 2311.13534. There once, from the base
        model; here after each task, from the model before it.
    """

    name = "averaging"

    average: Coefficient = 0.5


@torch.no_grad()
def average_weights(model: nn.Module, before: nn.Module, coefficient: float) -> None:
    """Makes each trained weight of `model` (1 − coefficient) · its own in `before` + coefficient · itself.

    `before` has the same parameters, wherever they lie. Of an adapter what is frozen is left as it is. A weight that is
    the same in both stays so to the bit.
    """
    starts = dict(before.named_parameters())
    adapter = hasattr(model, "peft_config")
    for name, parameter in model.named_parameters():
        if adapter and not parameter.requires_grad:
            continue
        start = starts[name].to(parameter.device, torch.float32)
        trained = parameter.float()
        averaged = torch.lerp(start, trained, coefficient)
        if _FACTOR.search(name) and parameter.ndim == 2:
            averaged = torch.where(_alone(name, starts).to(parameter.device), trained, averaged)
        parameter.copy_(averaged)


def _alone(name: str, starts: Mapping[str, Tensor]) -> Tensor:
    """Which ranks of a factor, A [rank, inputs] or B [outputs, rank], stay as they are trained: [rank, 1] or [1, rank].

    They are those that add nothing before the task, of the one factor that is not 0: the other one is scaled.
    """
    first, second = (starts[_FACTOR.sub(rf"\1{letter}", name)] for letter in "AB")
    new = (second == 0).all(dim=0)
    if _FACTOR.sub(r"\1A", name) == name:
        return new[:, None]
    return ((first == 0).all(dim=1) & ~new)[None, :]
