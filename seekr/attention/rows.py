"""Rows of attention maps, one block at a time: the common ground of the student's map and every form of the teacher's.

Whatever is read here is one sample and one layer; positions count from the sample's first token. Everything is
computed in float32, because the differences that are measured are far below half precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from seekr.attention.tap import AttentionCall, Geometry
from seekr.modeling.precision import full_precision

# Stands for log 0: finite, so that 0 · log 0 comes out as 0 and not as NaN.
LOG_ZERO = -1e30


class MapRows(ABC):
    """Chosen query rows of chosen heads of one attention map."""

    @abstractmethod
    def scores(self, rows: slice, columns: slice, student: Tensor | None = None) -> Tensor:
        """Log-probabilities up to a constant of each row, [heads, rows, columns (+ 1)], in memory of their own.

        The sink comes last, and `LOG_ZERO` stands where a query does not see a key.

        Args:
            rows: a block of the chosen queries.
            columns: the keys, which hold all that these queries see.
            student: scores of the same entries that these rows are compared with.
        """

    def log_probs(self, rows: slice, columns: slice, student: Tensor | None = None) -> Tensor:
        """The same, with each row's constant."""
        return self.scores(rows, columns, student).log_softmax(dim=-1)


@dataclass(frozen=True)
class QueryKeyRows(MapRows):
    """Rows computed from queries and keys, of the chosen heads of one layer of one sample.

    Attributes:
        query: [heads, queries, head_dim], any dtype.
        key: [key_value_heads of these heads, length, head_dim], of the same dtype.
        key_of_head: [heads] ascending, index into `key`.
        positions: [queries], ascending.
        geometry: how scores are made.
        sink: [heads] or None.
        query_scale: [heads, queries], what each query is multiplied by, or None; with it
        key_scale: [key_value_heads, length], what each key is multiplied by.
    """

    query: Tensor
    key: Tensor
    key_of_head: Tensor
    positions: Tensor
    geometry: Geometry
    sink: Tensor | None = None
    query_scale: Tensor | None = None
    key_scale: Tensor | None = None

    @classmethod
    def of_call(
        cls,
        call: AttentionCall,
        sample: int,
        span: tuple[int, int],
        heads: Tensor,
        positions: Tensor | None = None,
        on_device: Tensor | None = None,
    ) -> QueryKeyRows:
        """Reads one sample of a recorded call, without gradient; the rows are exact.

        Args:
            call: what the tap recorded.
            sample: row of the batch.
            span: the sample's columns (start, stop).
            heads: [heads] ascending, indices; best on the CPU.
            positions: [queries] ascending, from the sample's first token, on any device; None = every token.
            on_device: the same heads where the call lies; None = they are copied there.
        """
        start, stop = span
        key_heads, key_of_head = key_heads_of(heads, call, on_device)
        # An index on the CPU would be copied to a GPU with a wait for all that is under way there.
        heads = heads.to(call.query.device, non_blocking=True) if on_device is None else on_device
        query = call.query.detach()
        if positions is None:
            query = query[sample, heads, start:stop]
            positions = torch.arange(stop - start, device=query.device)
        else:
            positions = positions.to(query.device, non_blocking=True)
            query = query[sample, :, start:stop][heads[:, None], positions]
        key = call.key.detach()[sample, key_heads, start:stop]
        sink = None if call.sink is None else call.sink.detach()[heads]
        return cls(query, key, key_of_head, positions, call.geometry, sink)

    @cached_property
    def queries(self) -> Tensor:
        """[heads, queries, head_dim], float32."""
        return _scaled(self.query, self.query_scale)

    @cached_property
    def keys(self) -> Tensor:
        """[heads, length, head_dim], float32, repeated for each head."""
        return _scaled(self.key, self.key_scale)[self.key_of_head]

    @cached_property
    def sinks(self) -> Tensor | None:
        """[heads], float32, or None."""
        return None if self.sink is None else self.sink.float()

    @full_precision()
    def scores(self, rows: slice, columns: slice, student: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """As `MapRows.scores`: what softmax is given, after the soft cap."""
        query, key = self.queries[:, rows], self.keys[:, columns]
        shape = (query.shape[0], query.shape[1], key.shape[1])
        scores = torch.baddbmm(query.new_empty(shape), query, key.transpose(1, 2), beta=0, alpha=self.geometry.scaling)
        if self.geometry.softcap is not None:
            scores.div_(self.geometry.softcap).tanh_().mul_(self.geometry.softcap)
        hide(scores, self.positions[rows], columns.start, self.geometry.window)
        if self.sinks is not None:
            scores = torch.cat([scores, self.sinks[:, None, None].expand(*shape[:2], 1)], dim=2)
        return scores


def key_heads_of(heads: Tensor, call: AttentionCall, on_device: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The key/value heads that some heads read, and which of these each head reads; on the device of the call.

    Heads on the CPU, as a memory names them, are looked up without waiting for a GPU. Where they are `on_device` too,
    nothing is copied.
    """
    group = call.query.shape[1] // call.key.shape[1]
    key_heads, key_of_head = torch.unique(heads // group, return_inverse=True)
    if on_device is None:
        device = call.query.device
        return key_heads.to(device, non_blocking=True), key_of_head.to(device, non_blocking=True)
    read = on_device // group
    key_of_head = read.diff(prepend=read[:1]).ne(0).cumsum(0)
    return read.new_empty(len(key_heads)).scatter_(0, key_of_head, read), key_of_head


def _scaled(vectors: Tensor, scale: Tensor | None) -> Tensor:
    return vectors.float() if scale is None else vectors.float() * scale.float()[..., None]


def hide(scores: Tensor, positions: Tensor, first_key: int, window: int | None, value: float = LOG_ZERO) -> None:
    """Sets what a query does not see to `value`, in place: scores [heads, rows, columns], positions [rows]."""
    start, stop = int(positions[0]), int(positions[-1])
    keys = torch.arange(first_key, first_key + scores.shape[-1], device=scores.device)
    # Keys up to the block's first query are seen by all of it.
    late = max(start + 1 - first_key, 0)
    if late < scores.shape[-1]:
        scores[..., late:].masked_fill_(keys[late:] > positions[:, None], value)
    if window is not None and stop - first_key >= window:
        early = max(stop - window + 1 - first_key, 0)
        scores[..., :early].masked_fill_(keys[:early] <= positions[:, None] - window, value)


def visible_columns(positions: Tensor, window: int | None) -> slice:
    """The keys that a block of queries sees together; positions [rows] ascending."""
    first = 0 if window is None else max(int(positions[0]) - window + 1, 0)
    return slice(first, int(positions[-1]) + 1)


def blocks(count: int, size: int) -> list[slice]:
    """`count` rows in blocks of at most `size`."""
    if _WIDEST_ALONE.get():
        return [slice(max(count - size, 0), count)]
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


_WIDEST_ALONE = ContextVar("widest block alone", default=False)


@contextmanager
def widest_block_alone() -> Iterator[None]:
    """Inside, `blocks` gives one block that sees every key: enough to see what blocks take, and not what is found."""
    token = _WIDEST_ALONE.set(True)
    try:
        yield
    finally:
        _WIDEST_ALONE.reset(token)


def block_size(heads: int, length: int, device: torch.device | None = None) -> int:
    """Rows a block, so that one block of scores stays about in a core's cache; on an accelerator (None = a CPU), so
    that it keeps all of it at work and few blocks are started."""
    entries = 1 << 19 if device is None or device.type == "cpu" else 1 << 24
    return max(16, min(entries // max(heads * length, 1), length))
