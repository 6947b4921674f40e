"""The attention distillation loss of a batch: which heads of which layers of which samples, against which teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from seekr.attention.backend import attention_divergence
from seekr.attention.divergence import PROFILED, SampleTeacher
from seekr.attention.rows import MapRows, QueryKeyRows
from seekr.attention.tap import AttentionCall, Tap, layers_and_heads
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs, sample_spans


class StoredAttention(Protocol):
    """The teacher of one sample as the memory keeps it."""

    @property
    def heads(self) -> Mapping[int, Tensor]: ...

    @property
    def positions(self) -> Tensor | None: ...

    def heads_on(self, layer: int, device: torch.device) -> Tensor:
        """The chosen heads of a layer once more, on a device."""

    def rows(self, layer: int, device: torch.device) -> MapRows:
        """The stored rows of the chosen heads of a layer."""


def attention_distillation_loss(
    student: nn.Module,
    teacher: nn.Module | Sequence[StoredAttention],
    batch: dict[str, Tensor],
    heads: Mapping[int, Tensor],
    *,
    queries: Tensor | None = None,
) -> Tensor:
    """Mean over samples, over the layers of `heads`, over (head, query), of KL(teacher row || student row), in nats.

    Args:
        student: a causal LM whose attention goes through the attention interface; the loss is differentiable in it.
        teacher: another state of the model, or what a memory keeps of each sample of the batch.
        batch: input_ids and attention_mask, each [samples, length]; padding on either side.
        heads: layer → heads, counted from 0.
        queries: LongTensor[samples, q], positions counted from each sample's first token; None = every token. A stored
            teacher brings the queries that it was stored for; where given, they must be these.

    Returns:
        Tensor[], float32.

    Raises:
        InputError: for layers, heads or queries that are not there, or that a stored teacher does not keep.

    Source: SEEKR, arXiv 2411.06171, by means.
    """
    _check_heads(student, heads)
    device = next(student.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    heads = {layer: torch.as_tensor(chosen).cpu().sort().values for layer, chosen in heads.items()}
    spans = sample_spans(batch["attention_mask"])
    positions = _positions(queries, spans, device)
    if isinstance(teacher, nn.Module):
        _check_heads(teacher, heads)
        with torch.no_grad(), Tap(teacher, heads) as source:
            teacher(**model_inputs(batch, next(teacher.parameters()).device), use_cache=False)
    else:
        _check_stored(teacher, queries, positions)
    with Tap(student, heads) as tap:
        student(**model_inputs(batch), use_cache=False)
    if missing := sorted(heads.keys() - tap.calls.keys()):
        raise InputError(f"heads: layers {missing} of the model have no attention; leave them out")

    total = torch.zeros((), device=device)
    for layer, chosen in heads.items():
        if isinstance(teacher, nn.Module):
            targets = [
                SampleTeacher(
                    sample, span, chosen, positions[sample],
                    QueryKeyRows.of_call(source.calls[layer], sample, span, chosen, positions[sample]),
                )
                for sample, span in enumerate(spans)
            ]  # fmt: skip
        else:
            for stored in teacher:
                _check_heads_kept(stored, layer, chosen)
            targets = [_stored(teacher[sample], sample, span, layer, device) for sample, span in enumerate(spans)]
        total = total + attention_divergence(tap.calls[layer], targets).mean()
    return total / len(heads)


@record_function(PROFILED)
def weighted_attention_divergence(
    calls: Mapping[int, AttentionCall],
    teachers: Mapping[int, StoredAttention],
    spans: Sequence[tuple[int, int]],
    weights: Mapping[tuple[int, int], float],
) -> Tensor:
    """Σ over (sample, layer) of weight · divergence, for a batch whose samples may have different heads.

    Args:
        calls: layer → the student's recorded call.
        teachers: row of the batch → what is kept of it.
        spans: columns (start, stop) of each row.
        weights: (row, layer) → weight of its divergence; see `Seekr.layer_weights`.

    Returns:
        Tensor[], float32, differentiable in the student.
    """
    parts = []
    for layer, call in calls.items():
        device = call.query.device
        rows = [row for row in teachers if (row, layer) in weights]
        if not rows:
            continue
        targets = [_stored(teachers[row], row, spans[row], layer, device) for row in rows]
        divergences = attention_divergence(call, targets)
        # Factors on the device would be one more copy.
        weighted = [value * weights[row, layer] for row, value in zip(rows, divergences, strict=True)]
        parts.append(torch.stack(weighted).sum())
    return torch.stack(parts).sum() if parts else next(iter(calls.values())).query.new_zeros(())


def _stored(
    teacher: StoredAttention, sample: int, span: tuple[int, int], layer: int, device: torch.device
) -> SampleTeacher:
    positions = teacher.positions
    positions = None if positions is None else positions.to(device, non_blocking=True)
    heads, there = teacher.heads[layer], teacher.heads_on(layer, device)
    return SampleTeacher(sample, span, heads, positions, teacher.rows(layer, device), there)


def _positions(
    queries: Tensor | None, spans: Sequence[tuple[int, int]], device: torch.device
) -> list[Tensor] | list[None]:
    if queries is None:
        return [None] * len(spans)
    if queries.dim() != 2 or len(queries) != len(spans) or not queries.shape[1]:
        raise InputError(f"queries must be [samples, q] for {len(spans)} samples, not {list(queries.shape)}")
    for sample, (start, stop) in enumerate(spans):
        if int(queries[sample].min()) < 0 or int(queries[sample].max()) >= stop - start:
            raise InputError(f"queries of sample {sample} must lie in 0..{stop - start - 1}, its own tokens")
    return [row.sort().values for row in queries.to(device)]


def _check_stored(
    teacher: Sequence[StoredAttention], queries: Tensor | None, positions: list[Tensor] | list[None]
) -> None:
    if len(teacher) != len(positions):
        raise InputError(f"teacher: {len(teacher)} stored samples for a batch of {len(positions)}; give one for each")
    for sample, (stored, asked) in enumerate(zip(teacher, positions, strict=True)):
        kept = stored.positions
        if queries is not None and asked is not None and (kept is None or kept.tolist() != asked.tolist()):
            raise InputError(f"queries of sample {sample} are not those that its stored teacher keeps; leave them out")


def _check_heads_kept(teacher: StoredAttention, layer: int, heads: Tensor) -> None:
    kept = teacher.heads.get(layer)
    if kept is None or kept.tolist() != heads.tolist():
        found = "nothing" if kept is None else f"heads {kept.tolist()}"
        raise InputError(f"layer {layer}: heads {heads.tolist()} were asked for, the memory keeps {found}")


def _check_heads(model: nn.Module, heads: Mapping[int, Tensor]) -> None:
    layers, count = layers_and_heads(model)
    if not heads:
        raise InputError("heads is empty; choose at least one head")
    for layer, chosen in heads.items():
        values = torch.as_tensor(chosen).tolist()
        inside = 0 <= layer < layers and values and min(values) >= 0 and max(values) < count
        if not inside or len(set(values)) < len(values):
            raise InputError(
                f"heads {{{layer}: {values}}}: name distinct ones; the model has layers 0..{layers - 1}, "
                f"heads 0..{count - 1}"
            )
