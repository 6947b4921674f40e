"""Every stored form of the teacher gives back its rows, within the error that its bits allow."""

from __future__ import annotations

import math
from dataclasses import replace

import attention_definitions as by_definition
import pytest
import torch
from torch import Tensor

from seekr.attention import map_rows, stored
from seekr.attention.divergence import SampleTeacher, attention_divergence
from seekr.attention.rows import LOG_ZERO, QueryKeyRows, visible_columns
from seekr.attention.stored import StoredForm, compact_bytes, decode, encode
from seekr.attention.tap import AttentionCall, Geometry

LENGTH = 37
FORMS: tuple[StoredForm, ...] = ("exact", "query_key", "rows", "top")
POSITIONS = {"every": None, "some": [0, 1, 5, 6, 20, 35], "last": [36], "first": [0]}


def layer_teacher(
    *,
    size: int = 8,
    length: int = LENGTH,
    positions: list[int] | None = None,
    geometry: Geometry | None = None,
    sink: bool = False,
    dtype: torch.dtype = torch.float32,
    heads: tuple[int, ...] = (0, 2, 5),
) -> QueryKeyRows:
    query, key = torch.randn(2, 6, length, size).to(dtype), torch.randn(2, 3, length, size).to(dtype)
    key = key + 8 * (torch.arange(size) == 1).to(dtype)  # one large channel that all keys share
    sinks = torch.randn(6).to(dtype) if sink else None
    empty = torch.empty(0)
    call = AttentionCall(query, key, empty, empty, geometry or Geometry(size**-0.5), sinks, None)
    asked = None if positions is None else torch.tensor(positions)
    return QueryKeyRows.of_call(call, 1, (0, length), torch.tensor(heads), asked)


def both(teacher: QueryKeyRows, form: StoredForm) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all rows as they were and as they are read back, hidden entries at LOG_ZERO."""
    kept = encode(teacher, form)
    read = decode(kept, form, teacher.positions, teacher.geometry, teacher.query.shape[-1])
    columns, rows = slice(0, teacher.key.shape[1]), slice(0, len(teacher.positions))
    expected = teacher.log_probs(rows, columns)
    # A bucket is shared out as by whom it is compared with: here by the teacher, so that all rows come back.
    return expected, read.log_probs(rows, columns, expected)


def seen(teacher: QueryKeyRows) -> Tensor:
    mask = by_definition.visible(teacher.key.shape[1], teacher.geometry.window)[teacher.positions]
    return mask if teacher.sink is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("window", [None, 1, 6, 100])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("sink", [False, True])
def test_rows_come_back(
    form: StoredForm, positions: list[int] | None, window: int | None, softcap: float | None, sink: bool
) -> None:
    teacher = layer_teacher(positions=positions, geometry=Geometry(0.35, window, softcap), sink=sink)
    expected, found = both(teacher, form)
    assert found.shape == expected.shape
    if form == "exact":
        assert torch.equal(found, expected)
    hidden = ~seen(teacher)
    assert (found[:, hidden] < LOG_ZERO / 2).all()
    assert torch.allclose(found.exp().sum(-1), torch.ones(found.shape[:2]), atol=1e-5)
    bound = {"exact": 0.0, "rows": map_rows._RANGE / 253, "top": map_rows._RANGE / 253, "query_key": 0.25}[form]
    assert (found - expected)[:, ~hidden].abs().max() <= bound + 1e-5
    divergence = (expected.exp() * (expected - found)).sum(-1)
    assert divergence.min() > -1e-5
    assert divergence.mean() < {"exact": 1e-7, "rows": 2e-4, "top": 2e-4, "query_key": 5e-4}[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [5, 8, 12, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_dimensions_and_precisions(form: StoredForm, size: int, dtype: torch.dtype) -> None:
    teacher = layer_teacher(size=size, dtype=dtype, positions=[3, 30], heads=(1, 4))
    expected, found = both(teacher, form)
    visible = seen(teacher)
    assert (found - expected)[:, visible].abs().max() <= {"exact": 0, "rows": 0.07, "top": 0.07, "query_key": 0.25}[
        form
    ]


def test_what_all_keys_share_costs_no_bits() -> None:
    """Some models put a large constant into a few key channels; softmax ignores it, and so does the stored form."""
    teacher = layer_teacher()
    expected, _ = both(teacher, "query_key")
    _, shifted = both(replace(teacher, key=teacher.key + 300 * torch.rand(8)), "query_key")
    assert (shifted - expected)[:, seen(teacher)].abs().max() < 0.25


@pytest.mark.parametrize("form", FORMS)
def test_blocks_read_the_same_as_the_whole(form: StoredForm) -> None:
    positions = [0, 3, 4, 11, 12, 30, 36]
    teacher = layer_teacher(positions=positions, geometry=Geometry(0.35, 9), sink=True)
    read = decode(encode(teacher, form), form, teacher.positions, teacher.geometry, 8)
    student = layer_teacher(positions=positions, geometry=Geometry(0.35, 9), sink=True)
    whole = read.log_probs(slice(0, 7), slice(0, LENGTH), student.log_probs(slice(0, 7), slice(0, LENGTH)))
    for rows in (slice(0, 2), slice(2, 5), slice(5, 7)):
        columns = visible_columns(teacher.positions[rows], 9)
        part = read.log_probs(rows, columns, student.log_probs(rows, columns))
        kept = torch.cat([whole[:, rows, columns], whole[:, rows, -1:]], 2)
        assert torch.allclose(part.exp(), kept.exp(), atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16])
def test_packing_is_exact(size: int) -> None:
    """Whole numbers up to 63 are what the codes are: they come back to the bit."""
    values = torch.randint(-63, 64, (5, 11, size)).float()
    values[..., 0] = torch.where(torch.rand(5, 11) < 0.5, 63.0, -63.0)
    packed, scale = stored._quantize(values)
    assert packed.shape == (5, 11, 7 * math.ceil(size / 8))
    assert torch.equal(stored._unpack(packed, size) * scale[..., None], values)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize(("heads", "entries"), [(1, 1), (3, 31), (2, 32), (5, 333)])
def test_flags_come_back_from_their_groups(heads: int, entries: int, density: float) -> None:
    flags = torch.rand(heads, entries) < density
    back = map_rows._unpack_flags(*map_rows._pack_flags(flags))
    assert torch.equal(back[:, :entries], flags)
    assert not back[:, entries:].any()


@pytest.mark.parametrize("magnitude", [0.0, 1e-2, 1.0, 1e4])
def test_quantization_error_is_half_a_step(magnitude: float) -> None:
    values = magnitude * torch.randn(50, 13)
    packed, scale = stored._quantize(values)
    error = (stored._unpack(packed, 13) * scale[..., None] - values).abs()
    # The scale is rounded to float16, by 2^-11 of 63 steps at most.
    assert (error <= 0.54 * scale.float()[:, None]).all()


def test_rotation_keeps_products() -> None:
    for size in (1, 5, 64):
        rotation = stored._rotation(size, torch.device("cpu"))
        assert torch.allclose(rotation @ rotation.T, torch.eye(size), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "queries", "size"), [(20, 20, 64), (400, 400, 16), (300, 5, 64), (300, 100, 8), (40, 40, 128)]
)
def test_bytes_are_what_a_form_takes(length: int, queries: int, size: int) -> None:
    heads = (0, 1, 4)
    positions = torch.linspace(0, length - 1, queries).long().tolist()
    teacher = layer_teacher(size=size, length=length, positions=positions, heads=heads)
    for form, expected in compact_bytes(len(heads), len(teacher.key), size, queries, length).items():
        found = sum(tensor.nbytes for tensor in encode(teacher, form).values())
        assert found == pytest.approx(expected, rel=0.08)


def test_the_automatic_form_is_exact_where_that_is_a_trifle() -> None:
    assert stored.automatic_form(layer_teacher()) == "exact"


@pytest.mark.parametrize(("sharpness", "expected"), [(4.0, "top"), (0.05, "query_key")])
def test_the_automatic_form_is_the_smallest_that_keeps_the_gradient(sharpness: float, expected: StoredForm) -> None:
    teacher = layer_teacher(size=64, length=300, geometry=Geometry(sharpness * 64**-0.5))
    bytes_of = compact_bytes(3, 3, 64, 300, 300)
    assert min(bytes_of, key=bytes_of.__getitem__) == "top"
    squares = teacher.log_probs(slice(0, 300), slice(0, 300)).exp().double().square()
    largest = map_rows.kept_entries(torch.arange(1, 301))
    rank = squares.argsort(dim=-1, descending=True).argsort(dim=-1)
    share = float(squares[rank < largest[:, None]].sum() / squares.sum())
    assert map_rows.kept_squares(teacher) == pytest.approx(share, rel=1e-5)
    assert (share >= 0.98) == (expected == "top")
    assert stored.automatic_form(teacher) == expected


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("sink", [False, True])
def test_a_bucket_by_definition(window: int | None, sink: bool) -> None:
    """Σ over kept entries of p_t log(p_t / p_s) + P_t log(P_t / P_s), and its gradient by autograd, in float64."""
    length, heads = 130, torch.arange(6)
    query, key, values = torch.randn(1, 6, length, 8), torch.randn(1, 6, length, 8), torch.empty(0)
    sinks = torch.randn(6) if sink else None
    call = AttentionCall(query, key, values, values, Geometry(1.0, window), sinks, None)
    teacher = QueryKeyRows.of_call(call, 0, (0, length), heads)
    kept = encode(teacher, "top")
    read = decode(kept, "top", teacher.positions, teacher.geometry, 8)
    moved = replace(call, query=(query + 0.3 * torch.randn_like(query)).requires_grad_())
    found = attention_divergence(moved, [SampleTeacher(0, (0, length), heads, None, read)])

    student = by_definition.log_rows(
        moved.query[0], key[0], teacher.positions, scaling=1.0, window=window, softcap=None, sink=sinks
    )
    there = seen(teacher)
    flags = torch.zeros(there.expand_as(student).shape, dtype=torch.bool)
    flags[:, there] = map_rows._unpack_flags(kept["groups"], kept["kept"])[:, : int(there.sum())]
    assert torch.equal(flags.sum(-1), torch.minimum(there.sum(-1), (there.sum(-1) // 10).clamp(min=16)).expand(6, -1))
    exact = teacher.log_probs(slice(0, length), slice(0, length)).double().exp()
    smallest = torch.where(flags, exact, 2).amin(-1)
    if not sink:
        assert (smallest >= torch.where(flags, 0, exact).amax(-1)).all()
    log_teacher = read.log_probs(slice(0, length), slice(0, length), student.detach().float()).double()
    top = torch.where(flags, log_teacher.exp() * (log_teacher - student), 0).sum(-1)
    rest = 1 - torch.where(flags, log_teacher.exp(), 0).sum(-1)
    others = there & ~flags
    filled = others.any(-1)
    log_share = torch.where(others, student, LOG_ZERO).logsumexp(-1)
    bucket = torch.where(filled, rest * (rest.clamp_min(1e-30).log() - log_share), 0)
    assert torch.allclose(rest, torch.where(others, exact, 0).sum(-1), atol=5e-3)
    expected = (top + bucket).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    one, two = (torch.autograd.grad(value, moved.query)[0] for value in (found.sum(), expected))
    assert by_definition.relative_error(one, two) < 1e-4


def test_only_the_keys_of_the_chosen_heads_are_kept() -> None:
    teacher = layer_teacher(heads=(2, 3))
    assert teacher.key.shape[0] == 1
    assert teacher.key_of_head.tolist() == [0, 0]
    assert encode(teacher, "exact")["key"].shape == (1, LENGTH, 8)
