"""Whether a model's attention can be read exactly: found out by trying, not by a list of families."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from seekr.attention.rows import QueryKeyRows, hide
from seekr.attention.tap import AttentionCall, Tap, layers_and_heads
from seekr.errors import InputError, listed
from seekr.modeling.inputs import model_inputs
from seekr.modeling.precision import full_precision

_LENGTHS = (13, 9)
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def check_attention(model: nn.Module, max_length: int | None = None) -> list[int]:
    """Runs one small padded batch with and without the tap and compares.

    Returns the layers whose attention was read: all of them, but for hybrids, whose other layers have none.

    Args:
        model: a causal LM of transformers, or one wrapped by peft.
        max_length: tokens of the longest sample; None = any.

    Raises:
        InputError: if the family does not go through transformers' attention interface, if the model computes other
            bits under the tap, or if its maps are not what queries, keys, window, soft cap and sink say (a bias on the
            scores, chunks, bidirectional parts), or change with the longest row of a batch.
    """
    heads = layers_and_heads(model)[1]
    _check_rotary(model, max_length)
    base: Any = model
    kind = _kind(model)
    batch = probe(model)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            plain = model(**model_inputs(batch), use_cache=False).logits
            with Tap(model) as tap:
                tapped = model(**model_inputs(batch), use_cache=False).logits
    finally:
        model.train(training)
    check_calls(model, tap)
    answers = batch["attention_mask"].bool()
    if not torch.equal(plain[answers], tapped[answers]):
        raise InputError(
            f"model: {kind} computes other values while its attention is read (it looks at the name of its attention "
            "implementation); use method.name=derpp for this family"
        )
    for layer, call in sorted(tap.calls.items()):
        _check_call(kind, layer, call, heads)
        _check_window(kind, layer, call, base.config.get_text_config(), max_length)
    return sorted(tap.calls)


def check_calls(model: nn.Module, tap: Tap) -> None:
    """Raises InputError unless some layers of a model called their attention in one forward, each its own and once."""
    if not tap.calls:
        raise InputError(
            f"model: {_kind(model)} does not call its attention through transformers' attention interface, so its maps "
            "cannot be read; use a family that does, or a method without attention distillation (method.name=derpp)"
        )
    if tap.again or not tap.calls.keys() <= set(range(layers_and_heads(model)[0])):
        raise InputError(
            f"model: layers of {_kind(model)} share one attention, or go through it several times, so its maps are not "
            "those of one layer each; use method.name=derpp"
        )


def _kind(model: Any) -> str:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def without_attention(model: nn.Module, layers: Collection[int]) -> str | None:
    """A line on the layers of a hybrid that are not among those with attention; None where there are none."""
    if others := [layer for layer in range(layers_and_heads(model)[0]) if layer not in layers]:
        return f"layers {listed(others)} have no attention that can be read; heads are those of the others"
    return None


@torch.no_grad()
def attention_layers(model: nn.Module) -> list[int]:
    """The layers whose attention can be read, by one forward of two short rows: all of them, but for hybrids."""
    with Tap(model) as tap:
        model(**model_inputs(probe(model)), use_cache=False)
    return sorted(tap.calls)


@full_precision()
def _check_call(kind: str, layer: int, call: AttentionCall, heads: int) -> None:
    """The call's output must be that of the map which the tap's queries and keys make, for every sample."""
    if call.query.shape[1] != heads or heads % call.key.shape[1]:
        raise InputError(
            f"model: layer {layer} of {kind} has {call.query.shape[1]} heads, its configuration says {heads}"
        )
    if not call.query.shape[2] == call.key.shape[2] == max(_LENGTHS):
        raise InputError(
            f"model: layer {layer} of {kind} has {call.query.shape[2]} queries and {call.key.shape[2]} keys for "
            f"{max(_LENGTHS)} tokens (virtual tokens of an adapter?); use LoRA or method.name=derpp"
        )
    if call.value.shape[1] != call.key.shape[1]:
        raise InputError(f"model: layer {layer} of {kind} has other value heads than key heads; use method.name=derpp")
    everything = torch.arange(heads, device=call.query.device)
    for sample, length in enumerate(_LENGTHS):
        start = call.query.shape[2] - length
        rows = QueryKeyRows.of_call(call, sample, (start, start + length), everything)
        probabilities = rows.log_probs(slice(0, length), slice(0, length)).exp()[..., :length]
        values = call.value[sample, :, start:].float().repeat_interleave(heads // call.value.shape[1], dim=0)
        expected = (probabilities @ values).transpose(0, 1)
        found = call.output[sample, start:].float()
        error = float((expected - found).abs().max() / found.abs().max().clamp_min(1e-12))
        if not error <= _TOLERANCE.get(call.query.dtype, 1e-4):
            raise InputError(
                f"model: the attention of layer {layer} of {kind} is not softmax(scaling·q·k) over earlier tokens (its "
                f"output differs by {error:.1e}); its maps cannot be distilled exactly, use method.name=derpp"
            )
    _check_mask(kind, layer, call)


def _check_mask(kind: str, layer: int, call: AttentionCall) -> None:
    """A dense mask must show each token exactly the keys that its window says."""
    if not isinstance(call.mask, Tensor) or call.mask.dim() != 4:
        return
    seen = call.mask if call.mask.dtype == torch.bool else call.mask > -1
    for sample, length in enumerate(_LENGTHS):
        expected = torch.ones(1, length, length, device=seen.device)
        hide(expected, torch.arange(length, device=seen.device), 0, call.geometry.window, value=0.0)
        if not torch.equal(seen[sample % len(seen), 0, -length:, -length:], expected[0].bool()):
            raise InputError(
                f"model: layer {layer} of {kind} hides other keys than causal order and its window "
                f"({call.geometry.window}) say; its maps cannot be distilled exactly, use method.name=derpp"
            )


def _check_window(kind: str, layer: int, call: AttentionCall, config: Any, max_length: int | None) -> None:
    """A window or chunk longer than the probe does not show in it, and some families mask by one that they do not
    hand to the attention function: what the configuration says decides there."""
    types = getattr(config, "layer_types", None)
    attention = types[layer] if types else "sliding_attention"
    sizes = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    said = (getattr(config, sizes[attention], None) or None) if attention in sizes else None
    found = call.geometry.window
    if said == found and attention != "chunked_attention":
        return
    limit = min(size for size in (said, found, sys.maxsize) if size is not None)
    if max_length is None or max_length > limit:
        raise InputError(
            f"model: layer {layer} of {kind} ({attention}) is limited to {said} tokens by its configuration and to "
            f"{found} by its attention call; longer maps cannot be read, set max_length={limit} or less"
        )


def _check_rotary(model: nn.Module, max_length: int | None) -> None:
    """A kept sample is read alone and replayed with others: its rotary embedding must not depend on them."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [rotary for rotary in parameters.values() if isinstance(rotary, dict)]
    for rotary in by_layer_type or [parameters]:
        kind = rotary.get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        limit = rotary.get("original_max_position_embeddings") or config.max_position_embeddings
        if max_length is None or max_length > limit:
            raise InputError(
                f"model: its {kind} rotary embedding changes once a row of the batch is longer than {limit} tokens, so "
                f"kept attention would not match; set max_length={limit} or less"
            )


def probe(model: nn.Module) -> dict[str, Tensor]:
    """Two rows of 13 and 9 tokens, padded on the left."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    device = next(model.parameters()).device
    length = max(_LENGTHS)
    ids = torch.arange(2 * length, device=device).reshape(2, length) * 7 % max(config.vocab_size - 3, 1)
    mask = torch.ones_like(ids)
    for row, tokens in enumerate(_LENGTHS):
        mask[row, : length - tokens] = 0
    return {"input_ids": ids, "attention_mask": mask}
