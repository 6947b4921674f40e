"""The forms in which a teacher's attention is kept: queries and keys, or rows of the map; exact or in few bits.

Each form turns the chosen heads of one layer of one sample into a few tensors and back into rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from seekr.attention.map_rows import bits_of_flags, decode_rows, encode_rows, kept_entries, kept_squares
from seekr.attention.rows import MapRows, QueryKeyRows
from seekr.attention.tap import Geometry
from seekr.modeling.precision import full_precision

StoredForm = Literal["exact", "query_key", "rows", "top"]
FORMS: tuple[StoredForm, ...] = get_args(StoredForm)
TeacherForm = Literal["auto", "exact", "query_key", "rows", "top"]

TRIFLE = 1 << 16
_SQUARES = 0.98


@full_precision()
def encode(teacher: QueryKeyRows, form: StoredForm) -> dict[str, Tensor]:
    """The tensors that are kept of a layer in a form; see `decode`."""
    if form in ("rows", "top"):
        return encode_rows(teacher, bucket=form == "top")
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


@full_precision()
def decode(
    tensors: Mapping[str, Tensor], form: StoredForm, positions: Tensor, geometry: Geometry, size: int
) -> MapRows:
    """The rows that `encode` kept.

    Args:
        tensors: what `encode` made, on the device of the student.
        form: the form they are in.
        positions: [queries] ascending.
        geometry: of the teacher's layer.
        size: the head dimension.
    """
    if form in ("rows", "top"):
        return decode_rows(tensors, positions, geometry)
    query, key = tensors["query"], tensors["key"]
    scales: tuple[Tensor, ...] = ()
    if form == "query_key":
        query, key = _unpack(query, size), _unpack(key, size)
        scales = tensors["query_scale"], tensors["key_scale"]
    return QueryKeyRows(
        query, key, tensors["key_of_head"].long(), positions, geometry, tensors.get("sink"), *scales
    )  # fmt: skip


@full_precision()
def automatic_form(teacher: QueryKeyRows) -> StoredForm:
    """The form that takes the fewest bytes of those that keep the gradient.

    Exact where that is a trifle (64 KiB a layer of a sample); "top" only where its entries hold 98% of the sum of
    squared probabilities: of a student that differs from the teacher alike everywhere, the gradient to the scores then
    has a cosine of at least 0.99. A map without large entries goes to "rows" or "query_key".
    """
    if teacher.query.nbytes + teacher.key.nbytes <= TRIFLE:
        return "exact"
    heads, queries, size = teacher.query.shape
    bytes_of = compact_bytes(heads, len(teacher.key), size, queries, teacher.key.shape[1])
    forms = sorted(bytes_of, key=bytes_of.__getitem__)
    return next(form for form in forms if form != "top" or kept_squares(teacher) >= _SQUARES)


def compact_bytes(heads: int, key_heads: int, size: int, queries: int, length: int) -> dict[StoredForm, float]:
    """Bytes of one layer of a sample in each compact form, queries being spread over a sample without a window."""
    width = 8 * math.ceil(size / 8) * 7 // 8 + 2
    visible = (length + 1) / 2
    rows = torch.arange(1, length + 1)
    top = float((kept_entries(rows) + bits_of_flags(rows) / 8).mean())
    return {
        "query_key": width * (heads * queries + key_heads * length),
        "rows": heads * queries * (visible + 2),
        "top": heads * queries * (top + 4),
    }


def stored_bytes(teacher: QueryKeyRows, form: TeacherForm) -> int:
    """Bytes of a layer of a sample in a form, but for a few a head; the teacher's tensors need no numbers.

    "auto" is the smallest form that any map may be kept in: whether the largest entries alone will do ("top", which
    takes less) is seen from the maps.
    """
    exact = teacher.query.nbytes + teacher.key.nbytes
    if form == "exact" or (form == "auto" and exact <= TRIFLE):
        return exact
    heads, queries, size = teacher.query.shape
    compact = compact_bytes(heads, len(teacher.key), size, queries, teacher.key.shape[1])
    return round(compact[form] if form != "auto" else min(compact["rows"], compact["query_key"]))


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
