"""The divergence and its gradient against the definition in float64, at odd sizes and in every precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar

import attention_definitions as by_definition
import pytest
import torch
from tiers import thorough
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seekr.attention import divergence, rows
from seekr.attention.divergence import SampleTeacher
from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import decode, encode
from seekr.attention.tap import AttentionCall, Geometry

SIZE = 8
Divergence = Callable[[AttentionCall, Sequence[SampleTeacher]], Tensor]
GRADIENT_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(params=["definition", "kernel"])
def attention_divergence(request: pytest.FixtureRequest) -> Divergence:
    """Plain PyTorch, and the Triton kernels: on a GPU where there is one, else under Triton's interpreter."""
    if request.param == "definition":
        return divergence.attention_divergence
    pytest.importorskip("triton")
    from seekr.attention import divergence_triton

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def kernel(call: AttentionCall, teachers: Sequence[SampleTeacher]) -> Tensor:
        return divergence_triton.attention_divergence(to(call, device), [to(one, device) for one in teachers]).cpu()

    return kernel


def to(value: Any, device: torch.device) -> Any:
    """A dataclass with all its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if not is_dataclass(value):
        return value
    return replace(value, **{item.name: to(getattr(value, item.name), device) for item in fields(value)})  # type: ignore[type-var]


def random_call(
    lengths: tuple[int, ...],
    *,
    heads: int = 4,
    key_heads: int = 2,
    size: int = SIZE,
    geometry: Geometry | None = None,
    sink: bool = False,
    dtype: torch.dtype = torch.float32,
    spread: float = 2.0,
) -> AttentionCall:
    shape = (len(lengths), heads, max(lengths), size)
    query = (spread * torch.randn(shape)).to(dtype).requires_grad_()
    key = (spread * torch.randn(shape[0], key_heads, *shape[2:])).to(dtype).requires_grad_()
    sinks = torch.randn(heads).to(dtype).requires_grad_() if sink else None
    empty = torch.empty(0)
    return AttentionCall(query, key, empty, empty, geometry or Geometry(size**-0.5), sinks, None)


def moved(call: AttentionCall) -> AttentionCall:
    """A teacher's call: the student's, somewhat elsewhere."""
    parts = {
        name: None if part is None else (part + 0.5 * torch.randn_like(part)).detach()
        for name, part in (("query", call.query), ("key", call.key), ("sink", call.sink))
    }
    return replace(call, **parts)  # type: ignore[arg-type]


def log_rows(call: AttentionCall, sample: int, span: tuple[int, int], heads: Tensor, positions: Tensor) -> Tensor:
    group = call.query.shape[1] // call.key.shape[1]
    tokens = slice(*span)
    return by_definition.log_rows(
        call.query[sample, heads, tokens][:, positions],
        call.key[sample, heads // group, tokens],
        positions,
        scaling=call.geometry.scaling,
        window=call.geometry.window,
        softcap=call.geometry.softcap,
        sink=None if call.sink is None else call.sink[heads],
    )


def check(
    attention_divergence: Divergence,
    student: AttentionCall,
    teacher: AttentionCall,
    targets: list[tuple[int, tuple[int, int], list[int], list[int] | None]],
    *,
    values_within: float = 1e-5,
) -> None:
    """Values, and the gradients under an upstream gradient that is not 1, against float64."""
    dtype = student.query.dtype
    inputs = [part for part in (student.query, student.key, student.sink) if part is not None]
    samples, expected = [], []
    for sample, span, heads, positions in targets:
        kept = torch.tensor(heads)
        asked = None if positions is None else torch.tensor(positions)
        samples.append(
            SampleTeacher(sample, span, kept, asked, QueryKeyRows.of_call(teacher, sample, span, kept, asked))
        )
        every = torch.arange(span[1] - span[0]) if asked is None else asked
        log_teacher, log_student = (log_rows(call, sample, span, kept, every) for call in (teacher, student))
        expected.append(by_definition.mean_divergence(log_teacher.detach(), log_student))
    upstream = torch.linspace(1, 3, len(targets))
    found = attention_divergence(student, samples)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), torch.stack(expected), rtol=values_within, atol=1e-7)
    found_gradients = torch.autograd.grad(found, inputs, upstream)
    doubles = torch.autograd.grad(torch.stack(expected), inputs, upstream.double())
    for one, two in zip(found_gradients, doubles, strict=True):
        assert one.dtype == dtype
        assert by_definition.relative_error(one, two, 1e-6) < GRADIENT_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", GRADIENT_TOLERANCE, ids=str)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_precisions_and_shared_keys(attention_divergence: Divergence, dtype: torch.dtype, key_heads: int) -> None:
    student = random_call((21, 17), key_heads=key_heads, dtype=dtype)
    check(attention_divergence, student, moved(student), [(0, (0, 21), [0, 1, 3], None), (1, (4, 21), [2], [0, 3, 16])])


@pytest.mark.parametrize("length", [1, 2, 63, 111, 127, 128, 129, 257])
@pytest.mark.parametrize("window", [None, 50])
def test_lengths(
    attention_divergence: Divergence, length: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "block_size", lambda *_: 64)
    student = random_call((length,), geometry=Geometry(0.4, window))
    check(attention_divergence, student, moved(student), [(0, (0, length), [0, 2, 3], None)])


@pytest.mark.parametrize("window", [None, 5, *thorough(1, 40)])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("positions", [None, [2, 2, 7, 19, 30, 30, 34], *thorough([0], list(range(35)))], ids=str)
def test_geometries_and_queries_over_small_blocks(
    attention_divergence: Divergence,
    window: int | None,
    softcap: float | None,
    sink: bool,
    positions: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(divergence, "block_size", lambda *_: 3)
    student = random_call((35,), geometry=Geometry(0.3, window, softcap), sink=sink)
    check(attention_divergence, student, moved(student), [(0, (0, 35), [1, 2], positions)])


@pytest.mark.thorough
@pytest.mark.parametrize(("window", "positions"), [(40, None), (None, list(range(5, 1271, 31)))])
def test_a_long_sample(attention_divergence: Divergence, window: int | None, positions: list[int] | None) -> None:
    student = random_call((1271,), geometry=Geometry(0.4, window))
    check(attention_divergence, student, moved(student), [(0, (0, 1271), [1, 2], positions)])


@pytest.mark.parametrize("form", ["exact", "query_key", "rows", "top"])
@pytest.mark.parametrize("size", [SIZE, 20])
@pytest.mark.parametrize(("window", "sink", "positions"), [(None, False, None), (11, True, [3, 30, 31, 62])])
def test_every_stored_form_is_read(
    attention_divergence: Divergence, form: Any, size: int, window: int | None, sink: bool, positions: list[int] | None
) -> None:
    """By the kernel as by the definition: what a form has lost is the form's."""
    student = random_call((63,), size=size, geometry=Geometry(0.4, window), sink=sink, key_heads=4)
    heads = torch.tensor([0, 2, 3])
    asked = None if positions is None else torch.tensor(positions)
    teacher = QueryKeyRows.of_call(moved(student), 0, (0, 63), heads, asked)
    kept = decode(encode(teacher, form), form, teacher.positions, teacher.geometry, size)
    target = SampleTeacher(0, (0, 63), heads, asked, kept)
    inputs = [part for part in (student.query, student.key, student.sink) if part is not None]
    expected, found = (one(student, [target]) for one in (divergence.attention_divergence, attention_divergence))
    assert torch.allclose(found, expected, rtol=1e-5)
    for one, two in zip(*(torch.autograd.grad(value, inputs) for value in (found, expected)), strict=True):
        assert by_definition.relative_error(one, two) < 1e-5


def test_positions_may_be_a_strided_tensor(attention_divergence: Divergence) -> None:
    """The kernels read its neighbours in memory for it."""
    student, heads, positions = random_call((40,)), torch.tensor([1, 2]), torch.arange(40)[::3]
    exact = QueryKeyRows.of_call(moved(student), 0, (0, 40), heads, positions)
    values = [
        attention_divergence(student, [SampleTeacher(0, (0, 40), heads, asked, replace(exact, positions=asked))])
        for asked in (positions, positions.clone())
    ]
    assert not positions.is_contiguous()
    assert torch.equal(*values)


def test_positions_outside_of_a_span_are_refused(attention_divergence: Divergence) -> None:
    """Of packed samples the next one's rows would be read, and its gradient changed."""
    student, heads, positions = random_call((12,)), torch.tensor([0, 2]), torch.tensor([3, 6])
    rows_there = QueryKeyRows.of_call(moved(student), 0, (0, 12), heads, positions)
    with pytest.raises(IndexError):
        attention_divergence(student, [SampleTeacher(0, (0, 5), heads, positions, rows_there)])


def test_gradients_of_chosen_queries_were_sorted_on_a_gpu() -> None:
    """An `index_put_` that accumulates starts some thirty kernels a layer there."""

    class Names(TorchDispatchMode):
        seen: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    student, heads, positions = random_call((12,)), torch.tensor([0, 2]), torch.tensor([3, 6])
    rows_there = QueryKeyRows.of_call(moved(student), 0, (0, 12), heads, positions)
    teacher = SampleTeacher(0, (0, 12), heads, positions, rows_there)
    with Names():
        divergence.attention_divergence(student, [teacher]).sum().backward()
    assert "index_add_" in Names.seen
    assert not Names.seen & {"index_put_", "_index_put_impl_"}


def test_two_runs_give_the_same_bits(attention_divergence: Divergence) -> None:
    student = random_call((70,), heads=6, key_heads=1)
    heads = torch.arange(6)
    target = SampleTeacher(0, (0, 70), heads, None, QueryKeyRows.of_call(moved(student), 0, (0, 70), heads))
    values = [attention_divergence(student, [target]) for _ in range(2)]
    gradients = [torch.autograd.grad(value.sum(), [student.query, student.key]) for value in values]
    assert torch.equal(*values)
    assert all(map(torch.equal, *gradients))


def test_blocks_are_cut_by_size() -> None:
    assert rows.block_size(4, 1 << 20) == 16
    assert rows.block_size(1, 64) == 64
    assert rows.block_size(32, 4096, torch.device("cuda")) == 128
    assert [(b.start, b.stop) for b in rows.blocks(7, 3)] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("spread", [0.0, 10.0])
def test_uniform_and_saturated_maps(attention_divergence: Divergence, spread: float) -> None:
    """Rows that put all on one key, and rows that tell no keys apart, give finite numbers."""
    student = random_call((40,), spread=spread)
    check(attention_divergence, student, moved(student), [(0, (0, 40), [0, 1, 2, 3], None)], values_within=1e-4)


def test_equal_maps_are_zero_with_zero_gradient(attention_divergence: Divergence) -> None:
    """To the bit, but for kernels on a GPU: fused multiply-adds round the two maps differently (2e-10 nats seen)."""
    rounding = 3e-7 if torch.cuda.is_available() else 0.0
    student = random_call((33,), sink=True, geometry=Geometry(0.4, 7, 3.0))
    heads = torch.arange(4)
    teacher = SampleTeacher(0, (0, 33), heads, None, QueryKeyRows.of_call(student, 0, (0, 33), heads))
    value = attention_divergence(student, [teacher])
    assert abs(value.item()) <= rounding
    value.sum().backward()
    assert student.query.grad is not None
    assert student.query.grad.abs().max() <= rounding


def test_a_small_divergence_is_exact_where_scores_are_large(attention_divergence: Divergence) -> None:
    """Of rows whose largest scores differ by some fifty nats, as far as float32 tells such scores apart."""
    torch.manual_seed(0)
    student = random_call((97,))
    student = replace(student, key=(student.key + 20).detach(), query=student.query.detach())
    teacher = replace(student, query=student.query + 3e-3 * torch.randn_like(student.query))
    heads, span, positions = torch.arange(4), (0, 97), torch.arange(97)
    one = SampleTeacher(0, span, heads, None, QueryKeyRows.of_call(teacher, 0, span, heads))
    old, new = (log_rows(call, 0, span, heads, positions).double() for call in (teacher, student))
    expected = (old.exp() * (old - new)).nan_to_num().sum(dim=-1).mean()  # hidden entries are −∞ in both
    torch.testing.assert_close(attention_divergence(student, [one])[0].double(), expected, rtol=1e-3, atol=0)


def test_no_teacher_no_value(attention_divergence: Divergence) -> None:
    assert attention_divergence(random_call((5,)), []).shape == (0,)


def test_second_derivative_is_refused_and_not_wrong(attention_divergence: Divergence) -> None:
    student = random_call((5,))
    heads = torch.tensor([0])
    teacher = SampleTeacher(0, (0, 5), heads, None, QueryKeyRows.of_call(moved(student), 0, (0, 5), heads))
    value = attention_divergence(student, [teacher]).square().sum()
    (first,) = torch.autograd.grad(value, student.query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_autocast_does_not_reach_the_numbers(attention_divergence: Divergence) -> None:
    student = random_call((70,))
    teacher = moved(student)
    heads = torch.tensor([0, 2])

    def value_and_gradients() -> list[Tensor]:
        target = SampleTeacher(0, (0, 70), heads, None, QueryKeyRows.of_call(teacher, 0, (0, 70), heads))
        value = attention_divergence(student, [target])
        return [value.detach(), *torch.autograd.grad(value.sum(), [student.query, student.key])]

    plain = value_and_gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for one, two in zip(value_and_gradients(), plain, strict=True):
            assert torch.equal(one, two)


def test_gradient_of_float16_survives_until_its_weight_comes(attention_divergence: Divergence) -> None:
    """Gradients that float16 cannot hold are kept wider, as the weight of the loss may make them large again."""
    student = random_call((100,), dtype=torch.float16)
    near = student.query.detach().float() + 1e-4 * torch.randn_like(student.query, dtype=torch.float32)
    teacher = replace(student, query=near, key=student.key.detach().float())
    heads, every = torch.arange(4), torch.arange(100)
    target = SampleTeacher(0, (0, 100), heads, None, QueryKeyRows.of_call(teacher, 0, (0, 100), heads))
    weight = torch.full((1,), 1e6)
    (found,) = torch.autograd.grad(attention_divergence(student, [target]), student.query, weight)
    log_teacher, log_student = (log_rows(call, 0, (0, 100), heads, every) for call in (teacher, student))
    expected = by_definition.mean_divergence(log_teacher.detach(), log_student)
    (exact,) = torch.autograd.grad(expected * 1e6, student.query)
    assert (exact / 1e6).abs().max() < 1e-6
    assert by_definition.relative_error(found, exact) < 5e-3
