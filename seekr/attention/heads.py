"""From measures to the heads that are distilled: importance over tasks, budgets, selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seekr.errors import InputError
from seekr.modeling.precision import full_precision

ImportanceForm = Literal["product_of_sums", "sum_of_products", "sensitivity", "change", "random"]
Budget = Annotated[int, Field(ge=1)] | Literal["all"] | None


@full_precision()
def head_importance(
    sensitivities: Sequence[Tensor],
    changes: Sequence[Tensor],
    *,
    form: ImportanceForm = "product_of_sums",
    seed: Sequence[int] = (0,),
) -> Tensor:
    """Importance of each head over the tasks so far, [layers, heads].

    Args:
        sensitivities: S_k of each task, [layers, heads].
        changes: F_k of each task, [layers, heads]; zeros where a task was remembered without being learned.
        form: "product_of_sums" = (Σ_k S_k)·(Σ_k F_k), as the paper writes it; "sum_of_products" = Σ_k S_k·F_k, as the
            released code computes it; "sensitivity" = Σ_k S_k; "change" = Σ_k F_k; "random" = drawn by `seed`, in
            [0, 1), whatever was measured.
        seed: of what is drawn, each at least 0.

    Where nothing moved at all, importance is the sensitivity alone, unless it is random.

    Source: SEEKR, arXiv 2411.06171 (importance; the last three forms are those of its ablation).
    """
    if form == "random":
        drawn = np.random.default_rng(seed).random(sensitivities[-1].shape, dtype=np.float32)
        return torch.from_numpy(drawn)
    if form == "sensitivity" or not any(bool(change.any()) for change in changes):
        return torch.stack(list(sensitivities)).sum(dim=0)
    if form == "change":
        return torch.stack(list(changes)).sum(dim=0)
    if form == "product_of_sums":
        return torch.stack(list(sensitivities)).sum(dim=0) * torch.stack(list(changes)).sum(dim=0)
    return torch.stack([s * f for s, f in zip(sensitivities, changes, strict=True)]).sum(dim=0)


def select_heads(importance: Tensor, *, layer_budget: int, head_budget: int) -> dict[int, Tensor]:
    """The most important heads: first the layers with the largest sums, then heads over all of these layers.

    Args:
        importance: [layers, heads].
        layer_budget: layers that may hold chosen heads.
        head_budget: heads over all these layers together.

    Returns:
        layer → LongTensor of its chosen heads, sorted; layers without a chosen head are left out. Ties go to the
        smaller (layer, head).

    Raises:
        InputError: for budgets below 1 or larger than the model, and for importance that is not finite.

    Source: SEEKR, arXiv 2411.06171 (hierarchical budget).
    """
    check_budgets(importance.shape[0], importance.shape[1], layer_budget, head_budget)
    if not bool(importance.isfinite().all()):
        raise InputError("importance holds values that are not finite; measure it on a model whose loss is finite")
    importance = importance.detach().double().cpu()
    layers = importance.sum(dim=1).sort(descending=True, stable=True).indices[:layer_budget].sort().values
    heads_per_layer = importance.shape[1]
    order = importance[layers].flatten().sort(descending=True, stable=True).indices[:head_budget]
    chosen: dict[int, list[int]] = {}
    for flat in sorted(order.tolist()):
        chosen.setdefault(int(layers[flat // heads_per_layer]), []).append(flat % heads_per_layer)
    return {layer: torch.tensor(heads) for layer, heads in chosen.items()}


def resolve_budgets(layers: int, heads: int, layer_budget: Budget, head_budget: Budget) -> tuple[int, int]:
    """Budgets as numbers: "all" = every layer, and every head of the layers; None = the paper's share of the model,
    ¾ of the layers and ⅛ of all heads, rounded up (24 layers and 128 heads for Llama-2-7B).

    Raises:
        InputError: for explicit budgets larger than the model.
    """
    chosen_layers = _number(layer_budget, every=layers, share=math.ceil(3 * layers / 4))
    every = chosen_layers * heads
    chosen_heads = _number(head_budget, every=every, share=min(math.ceil(layers * heads / 8), every))
    check_budgets(layers, heads, chosen_layers, chosen_heads)
    return chosen_layers, chosen_heads


def spread_heads(heads: int, layers: int) -> list[int]:
    """How many of `heads` each of `layers` has where they are spread over them as evenly as it goes."""
    return [heads * (place + 1) // layers - heads * place // layers for place in range(layers)]


def _number(budget: Budget, *, every: int, share: int) -> int:
    if budget == "all":
        return every
    return share if budget is None else budget


def check_budgets(layers: int, heads: int, layer_budget: int, head_budget: int) -> None:
    """Raises InputError for budgets that a model of `layers` × `heads` cannot fill."""
    if not 1 <= layer_budget <= layers:
        raise InputError(
            f"layer_budget={layer_budget}: the model has {layers} layers with attention; use 1..{layers} or null"
        )
    if not 1 <= head_budget <= layer_budget * heads:
        raise InputError(
            f"head_budget={head_budget}: {layer_budget} layers of {heads} heads hold {layer_budget * heads}; "
            f"use 1..{layer_budget * heads} or null"
        )
