"""The divergence on a GPU: the same function as `divergence.attention_divergence`, as two Triton kernels.

A program of the first owns a block of queries and goes over the keys they see twice: for the log-sum-exps of both maps
and the divergence (online, with a running maximum), then for the gradient to the queries. A program of the second owns
a block of keys and goes over the queries that see them, of every chosen head that shares these keys. Scores are
recomputed and never stored, and each sum has one owner: no atomics, and two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from seekr.attention.divergence import Gradients, SampleTeacher, divergence_by
from seekr.attention.rows import LOG_ZERO, MapRows, QueryKeyRows
from seekr.attention.stored import StoredRows
from seekr.attention.tap import AttentionCall

_HIDDEN = tl.constexpr(LOG_ZERO)


def attention_divergence(call: AttentionCall, teachers: Sequence[SampleTeacher]) -> Tensor:
    """What `seekr.attention.divergence.attention_divergence` returns, with its gradients, from Triton kernels.

    Args:
        call: the student's recorded attention call; float32, bfloat16 or float16, on a GPU (or anywhere under Triton's
            interpreter). Products are taken in this dtype with float32 sums; those of float32 in full precision.
        teachers: one for each sample that is compared; rows from queries and keys, or stored rows of the map.

    Returns:
        Tensor[len(teachers)], float32, differentiable in the call's query, key and sink.
    """
    return divergence_by(_sample_divergence, call, teachers)


def _sample_divergence(
    call: AttentionCall, target: SampleTeacher, needs_gradient: bool
) -> tuple[Tensor, Gradients | None]:
    student = QueryKeyRows.of_call(call, target.sample, target.span, target.heads, target.positions)
    query, key, positions = _product(student.query), _product(student.key), student.positions
    heads, queries, size = query.shape
    length = key.shape[1]
    window = call.geometry.window or length
    sink = None if student.sink is None else student.sink.float().contiguous()
    teacher = _read(target.rows)
    teacher_sink = teacher.pop("teacher_sink")
    rows, keys, warps = _block_sizes(query.dtype, size)
    values = query.new_empty(heads, queries, dtype=torch.float32)
    # Of student and teacher: each row's largest score, and the logarithm of its sum after that is taken off.
    of_rows = query.new_empty(4, heads, queries, dtype=torch.float32)
    query_grad = query.new_empty(query.shape, dtype=torch.float32) if needs_gradient else values
    shared: dict[str, Any] = {
        "student_query": query, "student_key": key, **teacher, "positions": positions, "of_rows": of_rows,
        "heads": heads, "queries": queries, "length": length, "window": window, "scaling": call.geometry.scaling,
        "softcap": call.geometry.softcap or 1.0, "scale": call.geometry.scaling / values.numel(),
        "SIZE": size, "PADDED": max(16, triton.next_power_of_2(size)), "ROWS": rows, "KEYS": keys,
        "SOFTCAP": call.geometry.softcap is not None, "num_warps": warps,
        # The difference of two probabilities may lie below the range of float16, and is at most 1.
        "LIFT": 2.0**15 if query.dtype == torch.float16 else 1.0,
    }  # fmt: skip
    with torch.cuda.device_of(query):
        _by_queries[(triton.cdiv(queries, rows), heads)](
            **shared, key_of_head=student.key_of_head, values=values, query_grad=query_grad,
            sink=values if sink is None else sink, teacher_sink=teacher_sink,
            SINK=sink is not None, GRADIENT=needs_gradient,
        )  # fmt: skip
        value = values.mean()
        if not needs_gradient:
            return value, None
        edges = torch.arange(0, length, keys, device=query.device)
        key_grad = torch.empty_like(key, dtype=torch.float32)
        owners = torch.arange(len(key) + 1, device=query.device)
        _by_keys[(len(edges), len(key))](
            **shared, key_grad=key_grad, first_head=torch.searchsorted(student.key_of_head, owners),
            first_row=torch.searchsorted(positions, edges),
            end_row=torch.searchsorted(positions, edges + keys - 1 + window),
        )  # fmt: skip
    if sink is None:
        sink_grad = query.new_zeros(heads, dtype=torch.float32)
    else:
        lost = torch.exp(sink[:, None] - of_rows[0] - of_rows[1]) - torch.exp(teacher_sink - of_rows[2] - of_rows[3])
        sink_grad = lost.sum(dim=1) / values.numel()
    key_heads = torch.unique(target.heads // (call.query.shape[1] // call.key.shape[1]))
    return value, Gradients(query_grad, key_grad, key_heads, sink_grad)


def _read(rows: MapRows) -> dict[str, Any]:
    """A teacher as the kernels take it: queries and keys, or codes; what a form has not got is never looked at."""
    if isinstance(rows, QueryKeyRows):
        query, key = _product(rows.query), _product(rows.key)
        found = {"teacher_query": query, "teacher_key": key, "row_scale": query, "key_scale": key, "starts": query}
        if rows.query_scale is not None and rows.key_scale is not None:
            found |= {"row_scale": rows.query_scale.contiguous(), "key_scale": rows.key_scale.contiguous()}
        sink = query if rows.sink is None else rows.sink.float()[:, None].expand(query.shape[:2]).contiguous()
        scaled = rows.query_scale is not None
        return {**found, "teacher_sink": sink, "entries": 0, "CODED": False, "SCALED": scaled}
    if not isinstance(rows, StoredRows):
        raise TypeError(f"{type(rows).__name__}: no rows that the kernels know")
    codes, step, entries = rows.codes.contiguous(), rows.step.contiguous(), rows.codes.shape[1]
    sink = step
    if rows.sink:
        last = codes[:, torch.cat([rows.starts[1:], rows.starts.new_full((1,), entries)]) - 1]
        sink = (last.float() * -step.float()).masked_fill_(last == 255, LOG_ZERO)
    return {
        "teacher_query": codes, "teacher_key": codes, "row_scale": step, "key_scale": step, "starts": rows.starts,
        "teacher_sink": sink,
        "entries": entries, "CODED": True, "SCALED": False,
    }  # fmt: skip


def _product(tensor: Tensor) -> Tensor:
    """As the kernels multiply it. Triton's interpreter takes bfloat16 for integers."""
    wide = knobs.runtime.interpret and tensor.dtype == torch.bfloat16
    return (tensor.float() if wide else tensor).contiguous()


def _block_sizes(dtype: torch.dtype, size: int) -> tuple[int, int, int]:
    """(queries, keys, warps) of a program, so that its tiles stay in registers and shared memory."""
    return (32, 32, 4) if dtype == torch.float32 or size > 128 else (64, 64, 4)


@triton.jit
def _tanh(x):
    # The series near 0 keeps what the quotient would round away there.
    small = tl.exp(-2.0 * tl.abs(x))
    square = x * x
    near = tl.abs(x) * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)))
    size = tl.where(square < 0.0025, near, (1.0 - small) / (1.0 + small))
    return tl.where(x < 0, -size, size)


@triton.jit
def _capped(scores, softcap, SOFTCAP: tl.constexpr):
    if SOFTCAP:
        scores = softcap * _tanh(scores / softcap)
    return scores


@triton.jit
def _tile(
    query, key, other_query, teacher_key, key_scale, row_scale, row_start, position, row_there, columns, channels,
    head, owner, entries, length, window, scaling, softcap,
    SIZE: tl.constexpr, SOFTCAP: tl.constexpr, CODED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Scores of both maps, those of a teacher's rows up to a constant of the row, and what is visible."""
    visible = (columns[None, :] <= position[:, None]) & (columns[None, :] > position[:, None] - window)
    visible = visible & row_there[:, None] & (columns[None, :] < length)
    student = _capped(tl.dot(query, tl.trans(key), input_precision="ieee") * scaling, softcap, SOFTCAP)
    if CODED:
        places = (row_start - tl.maximum(position - window + 1, 0))[:, None] + columns[None, :]
        codes = tl.load(teacher_key + tl.cast(head, tl.int64) * entries + places, mask=visible, other=255)
        teacher = tl.where(codes == 255, _HIDDEN, -codes.to(tl.float32) * row_scale[:, None])
    else:
        there = columns < length
        place = tl.cast(owner, tl.int64) * length + columns
        inside = there[:, None] & (channels[None, :] < SIZE)
        other_key = tl.load(teacher_key + place[:, None] * SIZE + channels[None, :], mask=inside, other=0.0)
        teacher = tl.dot(other_query, tl.trans(other_key), input_precision="ieee") * scaling
        if SCALED:
            key_scales = tl.load(key_scale + place, mask=there, other=0.0).to(tl.float32)
            teacher = teacher * row_scale[:, None] * key_scales[None, :]
        teacher = tl.where(visible, _capped(teacher, softcap, SOFTCAP), _HIDDEN)
    return tl.where(visible, student, _HIDDEN), teacher, visible


@triton.jit
def _difference(
    student, teacher, visible, student_top, student_log, teacher_top, teacher_log, softcap, SOFTCAP: tl.constexpr
):
    """p_student − p_teacher, through the soft cap: the gradient of a row's divergence to the scores before it."""
    # The top first: what is left is small, where a log-sum-exp would round by what all of the row shares.
    difference = tl.exp(student - student_top[:, None] - student_log[:, None])
    difference -= tl.exp(teacher - teacher_top[:, None] - teacher_log[:, None])
    if SOFTCAP:
        capped = tl.where(visible, student, 0.0) / softcap
        difference = difference * (1.0 - capped * capped)
    return tl.where(visible, difference, 0.0)


@triton.jit
def _by_queries(
    student_query, student_key, teacher_query, teacher_key, row_scale, key_scale, starts, positions, of_rows,
    key_of_head, teacher_sink, sink, values, query_grad,
    heads, queries, length, entries, window, scaling, softcap, scale,
    SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CODED: tl.constexpr,
    SCALED: tl.constexpr, SOFTCAP: tl.constexpr, SINK: tl.constexpr, GRADIENT: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_there = row < queries
    place = tl.cast(head, tl.int64) * queries + row
    position = tl.load(positions + row, mask=row_there, other=-1).to(tl.int32)
    channels = tl.arange(0, PADDED)
    inside = row_there[:, None] & (channels[None, :] < SIZE)
    at = place[:, None] * SIZE + channels[None, :]
    query = tl.load(student_query + at, mask=inside, other=0.0)
    other_query, scales, row_start = query, tl.zeros([ROWS], tl.float32), position
    if CODED:
        row_start = tl.load(starts + row, mask=row_there, other=0)
    else:
        other_query = tl.load(teacher_query + at, mask=inside, other=0.0)
    if CODED or SCALED:
        scales = tl.load(row_scale + place, mask=row_there, other=0.0).to(tl.float32)
    owner = tl.load(key_of_head + head).to(tl.int64)
    key_base = student_key + owner * length * SIZE
    first = tl.maximum(tl.min(tl.where(row_there, position, length)) - window + 1, 0) // KEYS * KEYS
    end = tl.max(position) + 1

    student_top = tl.full([ROWS], _HIDDEN, tl.float32)
    student_sum = tl.zeros([ROWS], tl.float32)
    teacher_top, teacher_sum, cross = student_top, student_sum, student_sum
    if SINK:
        student_top = tl.zeros([ROWS], tl.float32) + tl.load(sink + head)
        teacher_top = tl.load(teacher_sink + place, mask=row_there, other=0.0)
        student_sum, teacher_sum = student_sum + 1.0, teacher_sum + 1.0
        cross = teacher_top - student_top
    for start in range(first, end, KEYS):
        columns = start + tl.arange(0, KEYS)
        there = (columns[:, None] < length) & (channels[None, :] < SIZE)
        key = tl.load(key_base + columns[:, None] * SIZE + channels[None, :], mask=there, other=0.0)
        student, teacher, visible = _tile(
            query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
            channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED,
        )  # fmt: skip
        top = tl.maximum(student_top, tl.max(student, 1))
        student_sum = student_sum * tl.exp(student_top - top) + tl.sum(tl.exp(student - top[:, None]), 1)
        student_top = top
        top = tl.maximum(teacher_top, tl.max(teacher, 1))
        shrunk = tl.exp(teacher_top - top)
        weights = tl.where(visible, tl.exp(teacher - top[:, None]), 0.0)
        teacher_sum = teacher_sum * shrunk + tl.sum(weights, 1)
        cross = cross * shrunk + tl.sum(weights * tl.where(visible, teacher - student, 0.0), 1)
        teacher_top = top
    # Rows that are not there have sums of nothing.
    teacher_sum = tl.where(row_there, teacher_sum, 1.0)
    student_log, teacher_log = tl.log(tl.where(row_there, student_sum, 1.0)), tl.log(teacher_sum)
    value = cross / teacher_sum + (student_top - teacher_top) + (student_log - teacher_log)
    tl.store(values + place, value, mask=row_there)
    entry = tl.cast(heads, tl.int64) * queries
    tl.store(of_rows + place, student_top, mask=row_there)
    tl.store(of_rows + entry + place, student_log, mask=row_there)
    tl.store(of_rows + 2 * entry + place, teacher_top, mask=row_there)
    tl.store(of_rows + 3 * entry + place, teacher_log, mask=row_there)
    if GRADIENT:
        gradient = tl.zeros([ROWS, PADDED], tl.float32)
        for start in range(first, end, KEYS):
            columns = start + tl.arange(0, KEYS)
            there = (columns[:, None] < length) & (channels[None, :] < SIZE)
            key = tl.load(key_base + columns[:, None] * SIZE + channels[None, :], mask=there, other=0.0)
            student, teacher, visible = _tile(
                query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
            channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED,
            )  # fmt: skip
            difference = _difference(
                student, teacher, visible, student_top, student_log, teacher_top, teacher_log, softcap, SOFTCAP
            )
            gradient += tl.dot((difference * LIFT).to(key.dtype), key, input_precision="ieee")
        tl.store(query_grad + at, gradient * (scale / LIFT), mask=inside)


@triton.jit
def _by_keys(
    student_query, student_key, teacher_query, teacher_key, row_scale, key_scale, starts, positions, of_rows,
    key_grad, first_head, first_row, end_row, heads, queries, length, entries, window, scaling, softcap, scale,
    SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CODED: tl.constexpr,
    SCALED: tl.constexpr, SOFTCAP: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    block, owner = tl.program_id(0), tl.program_id(1)
    columns = block * KEYS + tl.arange(0, KEYS)
    channels = tl.arange(0, PADDED)
    there = (columns[:, None] < length) & (channels[None, :] < SIZE)
    at = (tl.cast(owner, tl.int64) * length + columns)[:, None] * SIZE + channels[None, :]
    key = tl.load(student_key + at, mask=there, other=0.0)
    first, end = tl.load(first_row + block) // ROWS * ROWS, tl.load(end_row + block)
    gradient = tl.zeros([KEYS, PADDED], tl.float32)
    entry = tl.cast(heads, tl.int64) * queries
    for head in range(tl.load(first_head + owner), tl.load(first_head + owner + 1)):
        for start in range(first, end, ROWS):
            row = start + tl.arange(0, ROWS)
            row_there = row < queries
            place = tl.cast(head, tl.int64) * queries + row
            position = tl.load(positions + row, mask=row_there, other=-1).to(tl.int32)
            inside = row_there[:, None] & (channels[None, :] < SIZE)
            rows_at = place[:, None] * SIZE + channels[None, :]
            query = tl.load(student_query + rows_at, mask=inside, other=0.0)
            other_query, scales, row_start = query, tl.zeros([ROWS], tl.float32), position
            if CODED:
                row_start = tl.load(starts + row, mask=row_there, other=0)
            else:
                other_query = tl.load(teacher_query + rows_at, mask=inside, other=0.0)
            if CODED or SCALED:
                scales = tl.load(row_scale + place, mask=row_there, other=0.0).to(tl.float32)
            student, teacher, visible = _tile(
                query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
            channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED,
            )  # fmt: skip
            student_top = tl.load(of_rows + place, mask=row_there, other=0.0)
            student_log = tl.load(of_rows + entry + place, mask=row_there, other=0.0)
            teacher_top = tl.load(of_rows + 2 * entry + place, mask=row_there, other=0.0)
            teacher_log = tl.load(of_rows + 3 * entry + place, mask=row_there, other=0.0)
            difference = _difference(
                student, teacher, visible, student_top, student_log, teacher_top, teacher_log, softcap, SOFTCAP
            )
            lifted = tl.trans((difference * LIFT).to(query.dtype))
            gradient += tl.dot(lifted, query, input_precision="ieee")
    tl.store(key_grad + at, gradient * (scale / LIFT), mask=there)
