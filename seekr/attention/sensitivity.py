"""How strongly a sample's answer loss depends on each attention map, without building the map or its gradient.

With O = A V, the gradient of the loss ℓ to an entry of the map is ∂ℓ/∂A_ij = dO_i · V_j. Its squared norm over the keys
that a query sees is dO_iᵀ (Σ_{j≤i} V_j V_jᵀ) dO_i: a running head_dim × head_dim Gram matrix stands for all earlier
keys, so time and memory grow with the length and not with its square.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from seekr.attention.rows import blocks, hide, visible_columns
from seekr.attention.tap import AttentionCall, Tap, layers_and_heads
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs, sample_spans
from seekr.modeling.losses import answer_positions, logits_at
from seekr.modeling.precision import full_precision, no_autocast

Entries = Literal["visible", "all"]
Norm = Literal["frobenius", "mean_square"]

_BLOCK, _BLOCK_ON_GPU = 128, 1024


def measure_sensitivity(
    model: nn.Module, batch: dict[str, Tensor], *, entries: Entries = "visible", norm: Norm = "frobenius"
) -> Tensor:
    """How strongly the answer loss depends on each attention map; every layer's row sums to 1.

    Args:
        model: a causal LM whose attention goes through the attention interface, in eval mode.
        batch: input_ids, attention_mask, labels, each [samples, length]; padding on either side.
        entries: "visible" (inside the causal or window mask) or "all" (also above the diagonal, as the released code).
        norm: "frobenius" = mean over samples of ||∂ℓ/∂A||_F; "mean_square" = mean over samples of the mean of
            (∂ℓ/∂A)² over the n×n entries of the sample. ℓ is the sample's own mean cross-entropy over answer tokens.

    Returns:
        Tensor[layers, heads], float32.

    Raises:
        InputError: if a sample has no answer token or the labels of an option are unknown.

    Source: SEEKR, arXiv 2411.06171 (sensitivity).
    """
    total = unnormalized_sensitivity(model, batch, entries=entries, norm=norm)
    return normalize_layers(total)


def normalize_layers(sensitivity: Tensor) -> Tensor:
    """Each layer's row divided by its sum; [layers, heads]. A layer on which nothing depends stays 0."""
    return sensitivity / sensitivity.sum(dim=1, keepdim=True).clamp_min(torch.finfo(sensitivity.dtype).tiny)


def unnormalized_sensitivity(
    model: nn.Module, batch: dict[str, Tensor], *, entries: Entries = "visible", norm: Norm = "frobenius"
) -> Tensor:
    """The mean over samples before the layers are normalized (see `measure_sensitivity`); [layers, heads]."""
    check_options(entries=entries, norm=norm)
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    spans = sample_spans(batch["attention_mask"])
    result = torch.zeros(layers_and_heads(model), device=device)
    first_output: list[Tensor] = []

    def consume(layer: int, call: AttentionCall) -> None:
        if not first_output:
            first_output.append(call.output)
        # The hook belongs to the output: were the output, or a tensor with a graph, in the hook's hands, neither would
        # ever go, as Python's garbage collector does not see what autograd holds.
        values, window = call.value.detach(), call.geometry.window
        call.output.register_hook(lambda gradient: _add(result[layer], values, gradient, spans, window, entries, norm))

    with torch.enable_grad(), Tap(model, consume=consume):
        labels = _own_labels(batch["labels"], spans)
        # Logits have no name, and go once the loss is known: its backward needs their log-probabilities alone.
        loss = sample_losses(logits_at(model, model_inputs(batch), *answer_positions(labels)), labels).sum()
        with no_autocast():  # as in training, where the backward runs outside of it
            torch.autograd.grad(loss, first_output)
    return result / len(spans)


def _own_labels(labels: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Labels without those that padding would predict or that lie on padding: only a sample's own tokens count."""
    own = torch.full_like(labels, -100)
    for sample, (start, stop) in enumerate(spans):
        own[sample, start + 1 : stop] = labels[sample, start + 1 : stop]
    return own


@full_precision()
def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over each sample's own answer tokens, [samples], float32.

    Args:
        logits: [answer tokens, vocabulary], at the `answer_positions` of labels.
        labels: [samples, length], −100 = not an answer token.
    """
    rows, positions = answer_positions(labels)
    counts = (labels[:, 1:] != -100).sum(dim=1)
    if not bool(counts.all()):
        row = int((counts == 0).nonzero()[0])
        raise InputError(f"sample {row} of the batch has no answer token in labels; its loss is not defined")
    losses = nn.functional.cross_entropy(logits.float(), labels[rows, positions + 1], reduction="none")
    return torch.zeros(len(labels), device=logits.device).index_add(0, rows, losses) / counts


@torch.no_grad()
@full_precision()
def _add(
    result: Tensor,
    values: Tensor,
    gradient: Tensor,
    spans: list[tuple[int, int]],
    window: int | None,
    entries: str,
    norm: str,
) -> None:
    for sample, (start, stop) in enumerate(spans):
        outputs = gradient[sample, start:stop].transpose(0, 1).float()
        squares = squared_norm(outputs, values[sample, :, start:stop].float(), window, entries)
        length = stop - start
        result += squares.sqrt() if norm == "frobenius" else squares / (length * length)


def squared_norm(outputs: Tensor, values: Tensor, window: int | None, entries: str = "visible") -> Tensor:
    """||∂ℓ/∂A||_F² of each head of one sample; never below 0, where rounding would make its root not a number.

    Args:
        outputs: [heads, length, d], the gradient ∂ℓ/∂O.
        values: [key_value_heads, length, d].
        window: the layer's sliding window, or None.
        entries: "visible" or "all".

    Returns:
        Tensor[heads].
    """
    heads, length, size = outputs.shape
    groups = values.shape[0]
    total = outputs.new_zeros(heads)
    if entries == "all":
        gram = values.transpose(1, 2) @ values
        rows = outputs.reshape(groups, -1, size)
        return ((rows @ gram) * rows).reshape(heads, -1).sum(dim=1).clamp_(min=0)
    # A window would need keys taken out of the Gram matrix again, and differences of sums cancel.
    running = window is None or window >= length
    gram = values.new_zeros(groups, size, size)
    positions = torch.arange(length, device=outputs.device)
    for rows_slice in blocks(length, _BLOCK if outputs.device.type == "cpu" else _BLOCK_ON_GPU):
        columns = rows_slice if running else visible_columns(positions[rows_slice], window)
        rows = outputs[:, rows_slice].reshape(groups, -1, size)
        entries_block = (rows @ values[:, columns].transpose(1, 2)).reshape(heads, -1, columns.stop - columns.start)
        hide(entries_block, positions[rows_slice], columns.start, window, value=0.0)
        total += entries_block.square_().sum(dim=(1, 2))
        if running:
            total += ((rows @ gram) * rows).reshape(heads, -1).sum(dim=1)
            block = values[:, rows_slice]
            gram.baddbmm_(block.transpose(1, 2), block)
    return total.clamp_(min=0)


def check_options(*, entries: str = "visible", norm: str = "frobenius") -> None:
    """Raises InputError where an option of a measure is none of its values."""
    for name, value, known in (("entries", entries, Entries), ("norm", norm, Norm)):
        values = cast("tuple[str, ...]", known.__args__)  # type: ignore[attr-defined]
        if value not in values:
            raise InputError(f"{name}={value!r} is not known; use one of {', '.join(map(repr, values))}")
