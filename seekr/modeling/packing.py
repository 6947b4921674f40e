"""Rows of a micro-batch side by side in fewer, longer ones, so that little of a forward is spent on padding.

Positions begin again with every row; from that transformers tells which tokens may see each other: by lengths in flash
attention, by a mask of blocks elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from seekr.modeling.batches import Layout, MicroBatch
from seekr.modeling.losses import logits_at, transformer_of


def plan_layout(lengths: Sequence[int], hidden_size: int, *, attention: str) -> Layout | None:
    """The layout that costs least, None = every row by itself and padded to the longest.

    A token costs 24·hidden_size² operations in a layer's matrices and 4·hidden_size for each key that its attention
    goes over: half of a padded row, as the causal path leaves the later keys out; all of a packed row, as a mask hides
    some and skips none. Flash attention goes over the same keys either way. Attention other than flash and sdpa builds
    its maps, which packing must not make larger.

    Args:
        lengths: tokens of each row.
        attention: the model's attention implementation, as transformers names it.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    longest, flash = max(lengths), "flash" in attention
    best, least = None, len(lengths) * longest * (6 * hidden_size + (0 if flash else longest / 2))
    for count in (1,) if flash else range(1, len(lengths)):
        loads, rows, starts = [0] * count, [0] * len(lengths), [0] * len(lengths)
        for row in order:
            target = loads.index(min(loads))
            rows[row], starts[row] = target, loads[target]
            loads[target] += lengths[row]
        width = max(loads)
        if attention != "sdpa" and not flash and count * width**2 > len(lengths) * longest**2:
            continue
        cost = count * width * (6 * hidden_size + (0 if flash else width))
        if cost < least:
            best, least = Layout(width, tuple(rows), tuple(starts)), cost
    return best


def packed(batch: MicroBatch) -> dict[str, Tensor]:
    """The forward arguments of a micro-batch in its layout: ids and positions, no mask."""
    return {name: batch.tensors[f"packed/{name}"] for name in ("input_ids", "position_ids")}


def moved(batch: MicroBatch, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Where tokens of rows lie in the layout of their micro-batch: (row, position) of each."""
    assert batch.layout is not None
    places = batch.tensors["packed/places"][rows, positions]
    return places // batch.layout.width, places % batch.layout.width


def task_logits(model: nn.Module, batch: MicroBatch, places: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Logits where the answer tokens of a micro-batch are predicted, [answer tokens, vocabulary], row by row.

    `places`: (rows, positions) of others.
    """
    rows, positions = batch.answers_at if places is None else places
    if batch.layout is None:
        return logits_at(model, batch.unmasked, rows, positions)
    return logits_at(model, packed(batch), *moved(batch, rows, positions))


def layout_planner(model: nn.Module) -> Callable[[Sequence[int]], Layout | None] | None:
    """`plan_layout` for the rows of a task that `model` is trained on; None where it cannot be packed.

    Found out by trying, on a few tokens: a row must be what it is alone when another one stands before it. It is not
    where a state runs on from token to token, or where a family makes its mask without looking at positions.
    """
    inner = transformer_of(model)
    hidden_size = None if inner is None else getattr(inner.config.get_text_config(), "hidden_size", None)
    if inner is None or hidden_size is None:
        return None
    attention, device = str(inner.config._attn_implementation), next(inner.parameters()).device
    if device.type == "meta" or ("flash" in attention and device.type == "cpu"):  # not yet where it is trained
        return None
    training = {module: module.training for module in model.modules()}
    try:
        packs = _packs(model.eval(), inner.get_input_embeddings(), device, inner.config.get_text_config().vocab_size)
    finally:
        for module, flag in training.items():
            module.training = flag
    return partial(plan_layout, hidden_size=hidden_size, attention=attention) if packs else None


def _packs(model: nn.Module, embeddings: nn.Module, device: torch.device, vocabulary: int) -> bool:
    first, second = 5, 7
    ids = torch.arange(first + second, device=device)[None] * 7 % max(vocabulary - 3, 1)
    through = torch.arange(first + second, device=device)[None]
    restarted = torch.cat([through[:, :first], through[:, :second]], dim=1)

    def logits(ids: Tensor, positions: Tensor) -> Tensor:
        found: Tensor = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        return found[0, -second:].float()

    with torch.no_grad():
        alone = logits(ids[:, first:], through[:, :second])
        seen_by_it = (logits(ids, through) - alone).abs().max()
        # Far below what the row before it would do, if it were seen: rounding, in any precision.
        if not bool((logits(ids, restarted) - alone).abs().max() < 0.1 * seen_by_it):
            return False
    # A state that fades, or one of a model that has learned little, may do as little as rounding; its gradient says.
    embedded: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    with embeddings.register_forward_hook(keep), torch.enable_grad():
        gradient = torch.autograd.grad(logits(ids, restarted).square().sum(), embedded, allow_unused=True)
    return len(gradient) == 1 and gradient[0] is not None and not bool(gradient[0][:, :first].any())
