"""How far each attention map moved between two states of a model (the forgettability of a head)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from seekr.attention.rows import QueryKeyRows, block_size, blocks, visible_columns
from seekr.attention.sensitivity import Norm, check_options
from seekr.attention.tap import AttentionCall, Tap, layers_and_heads
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs, sample_spans
from seekr.modeling.losses import logits_at
from seekr.modeling.precision import full_precision


def measure_change(
    before: nn.Module, after: nn.Module, batch: dict[str, Tensor], *, norm: Norm = "frobenius"
) -> Tensor:
    """How far each attention map moved from `before` to `after` on the samples of a batch.

    Both models are read, a block of rows at a time, and only the sums are kept: no map, no stored snapshot.

    Args:
        before: the model as it was.
        after: the same model later; both in eval mode.
        batch: input_ids and attention_mask, each [samples, length]; padding on either side.
        norm: "frobenius" = mean over samples of ||A_after − A_before||_F; "mean_square" = mean over samples of the mean
            of the squared differences over the n×n entries, zeros above the diagonal included.

    Returns:
        Tensor[layers, heads], float32.

    Raises:
        InputError: if the two models differ in layers or heads.

    Source: SEEKR, arXiv 2411.06171 (forgettability).
    """
    return _over_samples(before, after, batch, _change(norm))[0]


def measure_change_and_drift(
    before: nn.Module, after: nn.Module, batch: dict[str, Tensor], *, norm: Norm = "frobenius"
) -> tuple[Tensor, Tensor]:
    """`measure_change`, and what the attention loss says of each head, had `before` been remembered.

    The drift is the mean over samples and their queries of KL(row before || row after), in nats: [layers, heads],
    float32. Each model takes one forward. Raises as `measure_change`.
    """
    change, drift = _over_samples(before, after, batch, _change(norm), _divergence)
    return change, drift


Measure = Callable[[AttentionCall, AttentionCall, int, tuple[int, int]], Tensor]
"""(layer's call before, after, sample, its span of columns) → how far each head moved, [heads]."""


def _change(norm: Norm) -> Measure:
    check_options(norm=norm)

    def moved(old: AttentionCall, new: AttentionCall, sample: int, span: tuple[int, int]) -> Tensor:
        squares = _squared_difference(old, new, sample, span)
        return squares.sqrt() if norm == "frobenius" else squares / (span[1] - span[0]) ** 2

    return moved


def _over_samples(before: nn.Module, after: nn.Module, batch: dict[str, Tensor], *measures: Measure) -> Tensor:
    """The mean over samples of each measure, [measures, layers, heads]."""
    if layers_and_heads(before) != layers_and_heads(after):
        raise InputError(
            f"before has (layers, heads) = {layers_and_heads(before)}, after has {layers_and_heads(after)}; "
            "give two states of one model"
        )
    device = next(after.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    spans = sample_spans(batch["attention_mask"])
    result = torch.zeros(len(measures), *layers_and_heads(after), device=device)
    calls: dict[int, AttentionCall] = {}

    def keep(layer: int, call: AttentionCall) -> None:
        nothing = call.value.new_empty(0)  # maps are made of queries and keys
        calls[layer] = replace(call, value=nothing, output=nothing)

    @full_precision()
    def consume(layer: int, call: AttentionCall) -> None:
        reference = calls.pop(layer)
        for sample, span in enumerate(spans):
            for place, measure in enumerate(measures):
                result[place, layer] += measure(reference, call, sample, span)

    first = torch.zeros(1, dtype=torch.long, device=device)  # of all logits, which nobody asks for, one place is made
    for model, take in ((before, keep), (after, consume)):
        with torch.no_grad(), Tap(model, consume=take):
            logits_at(model, model_inputs(batch), first, first)
    return result / len(spans)


def _squared_difference(before: AttentionCall, after: AttentionCall, sample: int, span: tuple[int, int]) -> Tensor:
    """||A_after − A_before||_F² of each head of one sample, [heads]; a sink's column is no entry of the map."""
    total = torch.zeros(after.query.shape[1], device=after.query.device)
    for old, new, rows, columns in _blocks(before, after, sample, span):
        difference = _probabilities(new, rows, columns) - _probabilities(old, rows, columns)
        total += difference.square_().sum(dim=(1, 2))
    return total


def _divergence(before: AttentionCall, after: AttentionCall, sample: int, span: tuple[int, int]) -> Tensor:
    """Mean over the queries of one sample of KL(row before || row after), [heads]; a sink is one more entry."""
    total = torch.zeros(after.query.shape[1], device=after.query.device)
    for old, new, rows, columns in _blocks(before, after, sample, span):
        logs = old.log_probs(rows, columns)
        total += (logs.exp() * (logs - new.log_probs(rows, columns))).sum(dim=(1, 2))
    return total / (span[1] - span[0])


def _blocks(
    before: AttentionCall, after: AttentionCall, sample: int, span: tuple[int, int]
) -> Iterator[tuple[QueryKeyRows, QueryKeyRows, slice, slice]]:
    """The rows of all heads of one sample in both calls, a block of queries at a time, and the keys that it sees."""
    heads, length = torch.arange(after.query.shape[1]), span[1] - span[0]
    old, new = (QueryKeyRows.of_call(call, sample, span, heads) for call in (before, after))
    for rows in blocks(length, block_size(len(heads), length, after.query.device)):
        yield old, new, rows, visible_columns(new.positions[rows], after.geometry.window)


def _probabilities(rows: QueryKeyRows, block: slice, columns: slice) -> Tensor:
    return rows.scores(block, columns).softmax(dim=-1)[..., : columns.stop - columns.start]
