"""Which part of a loss moves the weights: each part's gradient norm compared with the others'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn import Parameter


def gradient_shares(
    parts: Mapping[str, Tensor], parameters: Iterable[Parameter], *, scale: float = 1.0
) -> dict[str, float]:
    """The gradient norm of each part divided by the sum of the norms.

    One backward pass a part; the graph stays for the pass that trains. Each parameter's gradient is reduced
    to its norm and dropped as soon as it is known, so a second copy of the gradients never exists, and no
    `.grad` is touched: data-parallel wrappers notice nothing. `scale` multiplies every part (a loss scale
    that keeps float16 gradients from vanishing). A part by itself has share 1; where nothing moves all shares
    are 0.
    """
    if len(parts) == 1:
        return dict.fromkeys(parts, 1.0)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {name: _gradient_norm(part * scale, trained) for name, part in parts.items()}
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _gradient_norm(loss: Tensor, parameters: list[Parameter]) -> float:
    norms: list[Tensor] = []

    def measure(gradient: Tensor) -> Tensor:
        norms.append(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32))
        return gradient.new_zeros(()).expand_as(gradient)  # no memory, and what autograd hands back

    if not loss.requires_grad:
        return 0.0
    with ExitStack() as hooks:
        for parameter in parameters:
            hooks.enter_context(parameter.register_hook(measure))
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return sum(norm.item() ** 2 for norm in norms) ** 0.5
