"""The forms in which a teacher's attention is kept: queries and keys, or rows of the map; exact or in few bits.

Each form turns the chosen heads of one layer of one sample into a few tensors and back into rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seekr.attention.rows import LOG_ZERO, MapRows, QueryKeyRows, blocks, visible_columns
from seekr.attention.tap import Geometry

Form = Literal["exact", "query_key", "rows"]
TeacherForm = Literal["auto", "exact", "query_key", "rows"]

_TRIFLE = 1 << 16
_RANGE = 16.0  # nats below a row's largest entry; what is smaller is kept as 0


def encode(teacher: QueryKeyRows, form: Form) -> dict[str, Tensor]:
    """The tensors that are kept of a layer in a form; see `decode`."""
    if form == "rows":
        return _encode_rows(teacher)
    tensors = {"key_of_head": teacher.key_of_head.to(torch.uint8 if len(teacher.key) < 256 else torch.int32)}
    if teacher.sink is not None:
        tensors["sink"] = teacher.sink
    if form == "exact":
        return tensors | {"query": teacher.query.contiguous(), "key": teacher.key.contiguous()}
    query, key = teacher.query.float(), teacher.key.float()
    if teacher.geometry.softcap is None and teacher.sink is None:
        # Softmax ignores what all keys share; large constant channels would cost the others their bits.
        key = key - key.mean(dim=1, keepdim=True)
    rotation = _rotation(query.shape[-1], query.device)
    tensors["query"], tensors["query_scale"] = _quantize(query @ rotation)
    tensors["key"], tensors["key_scale"] = _quantize(key @ rotation)
    return tensors


def decode(tensors: Mapping[str, Tensor], form: Form, positions: Tensor, geometry: Geometry, size: int) -> MapRows:
    """The rows that `encode` kept.

    Args:
        tensors: what `encode` made, on the device of the student.
        form: the form they are in.
        positions: [queries] ascending.
        geometry: of the teacher's layer.
        size: the head dimension.
    """
    if form == "rows":
        with_sink = "sink" in tensors
        entries = _visible(positions, geometry.window)[1] + int(with_sink)
        starts = entries.cumsum(0) - entries
        return StoredRows(tensors["codes"], tensors["step"].float(), positions, starts, geometry, with_sink)
    query, key = tensors["query"], tensors["key"]
    scales: tuple[Tensor, ...] = ()
    if form == "query_key":
        query, key = _unpack(query, size), _unpack(key, size)
        scales = tensors["query_scale"], tensors["key_scale"]
    return QueryKeyRows(
        query, key, tensors["key_of_head"].long(), positions, geometry, tensors.get("sink"), *scales
    )  # fmt: skip


def automatic_form(teacher: QueryKeyRows) -> Form:
    """The exact form where that is a trifle (64 KiB a layer of a sample), else the compact one of the fewest bytes."""
    if teacher.query.nbytes + teacher.key.nbytes <= _TRIFLE:
        return "exact"
    heads, queries, size = teacher.query.shape
    return smallest_form(heads, len(teacher.key), size, queries, teacher.key.shape[1])


def smallest_form(heads: int, key_heads: int, size: int, queries: int, length: int) -> Form:
    """The compact form that takes the fewest bytes for one layer of a sample (full visibility assumed)."""
    width = 8 * math.ceil(size / 8) * 7 // 8 + 2
    query_key = width * (heads * queries + key_heads * length)
    rows = heads * queries * ((length + 1) / 2 + 2)
    return "rows" if rows < query_key else "query_key"


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of the map in 8 bits an entry: the logarithm of each probability below the row's largest.

    Attributes:
        codes: uint8 [heads, entries], the visible entries of row after row; 255 stands for 0.
        step: [heads, queries], nats a code.
        positions: [queries] ascending.
        starts: [queries], where each row begins among the entries.
        geometry: for the window.
        sink: whether each row ends with the sink's entry.
    """

    codes: Tensor
    step: Tensor
    positions: Tensor
    starts: Tensor
    geometry: Geometry
    sink: bool

    def log_probs(self, rows: slice, columns: slice) -> Tensor:
        positions = self.positions[rows]
        first, count = _visible(positions, self.geometry.window)
        starts = self.starts[rows]
        keys = torch.arange(columns.start, columns.stop, device=positions.device)
        index = keys[None, :] - first[:, None]
        hidden = (index < 0) | (index >= count[:, None])
        index = (starts[:, None] + index).masked_fill_(hidden, 0)
        if self.sink:
            index = torch.cat([index, (starts + count)[:, None]], dim=1)
            hidden = torch.cat([hidden, hidden.new_zeros(len(hidden), 1)], dim=1)
        codes = self.codes[:, index]
        logs = codes.float().mul_(-self.step[:, rows, None])
        logs.masked_fill_((codes == 255) | hidden, LOG_ZERO)
        return logs.log_softmax(dim=-1)


def _encode_rows(teacher: QueryKeyRows) -> dict[str, Tensor]:
    window = teacher.geometry.window
    codes, steps = [], []
    for block in blocks(len(teacher.positions), 64):
        columns = visible_columns(teacher.positions[block], window)
        below = teacher.log_probs(block, columns)
        below = below.amax(dim=-1, keepdim=True) - below
        seen = torch.where(below <= _RANGE, below, 0)
        # The stored step is what the codes are made with, or a long row would drift by its rounding.
        step = (seen.amax(dim=-1) / 254).to(torch.float16).clamp_min(2.0**-20).float()
        code = (below / step[..., None]).round_().clamp_(max=254).masked_fill_(below > _RANGE, 255)
        first, count = _visible(teacher.positions[block], window)
        keys = torch.arange(columns.start, columns.stop, device=code.device)
        visible = (keys >= first[:, None]) & (keys < (first + count)[:, None])
        if teacher.sink is not None:
            visible = torch.cat([visible, visible.new_ones(len(visible), 1)], dim=1)
        codes.append(code.to(torch.uint8)[:, visible])
        steps.append(step.to(torch.float16))
    tensors = {"codes": torch.cat(codes, dim=1), "step": torch.cat(steps, dim=1)}
    if teacher.sink is not None:
        tensors["sink"] = teacher.sink
    return tensors


def _visible(positions: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """First visible key and number of visible keys of each query."""
    first = torch.zeros_like(positions) if window is None else (positions - window + 1).clamp(min=0)
    return first, positions + 1 - first


def _rotation(size: int, device: torch.device) -> Tensor:
    """The orthonormal cosine transform [size, size]: it keeps every q·k and spreads a single large channel over all,
    which a scale per token needs."""
    index = torch.arange(size, dtype=torch.float64, device=device)
    matrix = torch.cos(math.pi / size * (index[:, None] + 0.5) * index[None, :]) * math.sqrt(2 / size)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.float()


def _quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """7 bits an entry with a float16 scale per vector: eight entries in seven bytes.

    [..., size] → uint8 [..., ⌈size/8⌉·7] and float16 [...].
    """
    padding = -values.shape[-1] % 8
    values = torch.nn.functional.pad(values, (0, padding))
    scale = (values.abs().amax(dim=-1) / 63).to(torch.float16).clamp_min(2.0**-24)
    codes = (values / scale.float()[..., None]).round_().clamp_(-63, 63).add_(64).to(torch.uint8)
    codes = codes.reshape(*codes.shape[:-1], -1, 8)
    # The eighth entry's bits ride on the free top bits of the other seven.
    bits = (codes[..., 7:] >> torch.arange(7, dtype=torch.uint8, device=codes.device)) & 1
    return (codes[..., :7] | (bits << 7)).flatten(-2), scale


def _unpack(packed: Tensor, size: int) -> Tensor:
    """The codes, whole numbers within ±63, in bfloat16, which holds them exactly."""
    packed = packed.reshape(*packed.shape[:-1], -1, 7)
    shifts = torch.arange(7, dtype=torch.uint8, device=packed.device)
    last = ((packed >> 7) << shifts).sum(dim=-1, keepdim=True, dtype=torch.uint8)
    codes = torch.cat([packed & 127, last], dim=-1).flatten(-2)[..., :size]
    return codes.to(torch.bfloat16) - 64
