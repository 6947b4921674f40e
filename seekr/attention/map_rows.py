"""Stored rows of attention maps: 8 bits an entry, of all entries or of the largest with one bucket for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seekr.attention.rows import LOG_ZERO, MapRows, QueryKeyRows, blocks, visible_columns
from seekr.attention.tap import Geometry

ZERO, REST = 255, 254  # codes of an entry that is kept as 0, and of one that is in the bucket
_RANGE = 16.0  # nats below a row's largest entry; what is smaller is kept as 0
_SHARE, _FEWEST = 10, 16  # of a row's visible entries one in so many is kept, and at least so many
_GROUP = 4  # entries in a group: of one in ten, 0.25 + 1 - 0.9⁴ = 0.59 bits an entry say which they are, in place of 1


@dataclass(frozen=True, slots=True)
class StoredRows(MapRows):
    """Rows of the map in 8 bits an entry: the logarithm of each probability below the row's largest.

    Attributes:
        codes: uint8 [heads, entries], the visible entries of row after row; `ZERO` stands for 0, `REST` for the bucket.
        step: [heads, queries], nats a code.
        positions: [queries] ascending.
        starts: [queries], where each row begins among the entries.
        geometry: for the window.
        sink: whether each row ends with the sink's entry, which is never in the bucket.
        rest: [heads, queries], the sum of the bucket's probabilities over the row's largest; None = there is no bucket.
    """

    codes: Tensor
    step: Tensor
    positions: Tensor
    starts: Tensor
    geometry: Geometry
    sink: bool
    rest: Tensor | None = None

    def scores(self, rows: slice, columns: slice, student: Tensor | None = None) -> Tensor:
        """As `MapRows.scores`. What is in the bucket is shared out as `student` shares it out.

        So the divergence is Σ over kept entries of p_t · log(p_t / p_s), plus P_t · log(P_t / P_s) for the bucket,
        whose entries' gradient is p_s · (1 − P_t / P_s): nothing is said of how the bucket is shared out inside.
        """
        positions = self.positions[rows]
        first, count = visible(positions, self.geometry.window)
        starts = self.starts[rows]
        keys = torch.arange(columns.start, columns.stop, device=positions.device)
        index = keys[None, :] - first[:, None]
        hidden = (index < 0) | (index >= count[:, None])
        index = (starts[:, None] + index).masked_fill_(hidden, 0)
        if self.sink:
            index = torch.cat([index, (starts + count)[:, None]], dim=1)
            hidden = torch.cat([hidden, hidden.new_zeros(len(hidden), 1)], dim=1)
        codes = self.codes[:, index]
        logs = codes.float().mul_(-self.step[:, rows, None].float())
        if self.rest is None:
            return logs.masked_fill_((codes == ZERO) | hidden, LOG_ZERO)
        if student is None:
            raise TypeError("rows with a bucket are rows of a student's, which is needed")
        logs.masked_fill_((codes >= REST) | hidden, LOG_ZERO)
        rest = self.rest[:, rows, None].float().clamp_min(torch.finfo(torch.float32).tiny).log_()
        bucket = (codes == REST) & ~hidden
        share = torch.where(bucket, student, LOG_ZERO).logsumexp(dim=-1, keepdim=True)
        return torch.where(bucket, student + (rest - share), logs)


def encode_rows(teacher: QueryKeyRows, *, bucket: bool) -> dict[str, Tensor]:
    """Tensors of a teacher's rows; see `decode_rows`.

    With a `bucket`, the largest tenth of each row's entries (and at least 16, and the sink) have codes, and the others
    are one number; a bit for each group of four entries, and one for each entry of a group that has any, say which
    have codes. Without it every entry has one.
    """
    codes, steps, flags, rests = [], [], [], []
    for logs, there, kept in _kept_blocks(teacher, bucket=bucket):
        below = logs.amax(dim=-1, keepdim=True) - logs
        if bucket:
            rest = torch.where(there & ~kept, (-below).exp(), 0).sum(dim=-1)
            rests.append(rest.clamp_max(torch.finfo(torch.float16).max).to(torch.float16))
            flags.append(kept[:, there])
        seen = torch.where(kept & (below <= _RANGE), below, 0)
        # The stored step is what the codes are made with, or a long row would drift by its rounding.
        step = (seen.amax(dim=-1) / (REST - 1)).to(torch.float16).clamp_min(2.0**-20)
        code = (below / step.float()[..., None]).round_().clamp_(max=REST - 1).masked_fill_(below > _RANGE, ZERO)
        codes.append(code.to(torch.uint8)[kept].reshape(len(below), -1))
        steps.append(step)
    tensors = {"codes": torch.cat(codes, dim=1), "step": torch.cat(steps, dim=1)}
    if bucket:
        groups, kept = _pack_flags(torch.cat(flags, dim=1))
        tensors |= {"groups": groups, "kept": kept, "rest": torch.cat(rests, dim=1)}
    if teacher.sink is not None:
        tensors["sink"] = teacher.sink
    return tensors


def kept_squares(teacher: QueryKeyRows) -> float:
    """The share of Σ p² over all entries that entries outside the bucket have, in [0, 1]."""
    kept_sum, whole_sum = 0.0, 0.0
    for logs, _, kept in _kept_blocks(teacher, bucket=True):
        squares = (2 * logs).exp_()
        kept_sum += float(squares[kept].sum(dtype=torch.float64))
        whole_sum += float(squares.sum(dtype=torch.float64))
    return kept_sum / whole_sum


def _kept_blocks(teacher: QueryKeyRows, *, bucket: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of rows: log-probabilities [heads, rows, entries], which entries are there [rows, entries] and kept."""
    for block in blocks(len(teacher.positions), 64):
        columns = visible_columns(teacher.positions[block], teacher.geometry.window)
        logs = teacher.log_probs(block, columns)
        first, count = visible(teacher.positions[block], teacher.geometry.window)
        keys = torch.arange(columns.start, columns.stop, device=logs.device)
        there = (keys >= first[:, None]) & (keys < (first + count)[:, None])
        if teacher.sink is not None:
            there = functional.pad(there, (0, 1), value=True)
            count = count + 1
        kept = there.expand_as(logs)
        if bucket:
            kept = kept & (_rank(logs, there, teacher.sink is not None) < kept_entries(count)[:, None])
        yield logs, there, kept


def decode_rows(tensors: Mapping[str, Tensor], positions: Tensor, geometry: Geometry) -> StoredRows:
    """The rows that `encode_rows` kept, every entry with its code."""
    with_sink = "sink" in tensors
    entries = visible(positions, geometry.window)[1] + int(with_sink)
    starts = entries.cumsum(0) - entries
    codes, rest = tensors["codes"], tensors.get("rest")
    if rest is not None:
        flags = _unpack_flags(tensors["groups"], tensors["kept"])
        codes = torch.full_like(flags, REST, dtype=torch.uint8).masked_scatter_(flags, codes.flatten())
    return StoredRows(codes, tensors["step"].float(), positions, starts, geometry, with_sink, rest)


def visible(positions: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """First visible key and number of visible keys of each query."""
    first = torch.zeros_like(positions) if window is None else (positions - window + 1).clamp(min=0)
    return first, positions + 1 - first


def kept_entries(count: Tensor) -> Tensor:
    """How many of `count` visible entries of a row have a code where there is a bucket, a sink among them."""
    return torch.minimum(count, (count // _SHARE).clamp(min=_FEWEST))


def bits_of_flags(visible: Tensor) -> Tensor:
    """Bits that say which of a row's `visible` entries have codes, if these lie anywhere, fewer if close."""
    density = kept_entries(visible) / visible
    return visible * (1 / _GROUP + 1 - (1 - density) ** _GROUP)


def _rank(logs: Tensor, there: Tensor, sink: bool) -> Tensor:
    """Place of each entry among its row's, the largest first; the sink before all, what is not there after all."""
    order = logs.masked_fill(~there, -float("inf"))
    if sink:
        order[..., -1] = float("inf")
    return order.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def _pack_flags(flags: Tensor) -> tuple[Tensor, Tensor]:
    """bool [heads, n] → a bit for each group, uint8 [heads, ⌈n / 32⌉], and the bits of groups that have any, uint8."""
    flags = functional.pad(flags, (0, -flags.shape[1] % (8 * _GROUP))).reshape(len(flags), -1, _GROUP)
    filled = flags.any(dim=-1)
    return _pack(filled), _pack(flags.masked_select(filled[..., None]))


def _unpack_flags(groups: Tensor, kept: Tensor) -> Tensor:
    """What `_pack_flags` made, with what was filled up to a multiple of 32."""
    filled = _unpack(groups).repeat_interleave(_GROUP, dim=1)
    return torch.zeros_like(filled).masked_scatter_(filled, _unpack(kept))


def _pack(flags: Tensor) -> Tensor:
    """bool [..., n] → uint8 [..., ⌈n / 8⌉]."""
    flags = functional.pad(flags, (0, -flags.shape[-1] % 8))
    flags = flags.reshape(*flags.shape[:-1], flags.shape[-1] // 8, 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (flags.to(torch.uint8) * weights).sum(dim=-1, dtype=torch.uint8)


def _unpack(bits: Tensor) -> Tensor:
    """What `_pack` made, with what was filled up to a multiple of 8."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> places) & 1).flatten(-2).bool()
