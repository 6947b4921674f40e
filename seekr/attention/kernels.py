"""The Triton kernels of `divergence_triton`, in the names of Triton's own language.

Tensors are contiguous: queries [heads, queries, SIZE], keys [key heads, length, SIZE]; tiles are [ROWS, KEYS].
"""

import triton
import triton.language as tl

from seekr.attention.map_rows import REST, ZERO
from seekr.attention.rows import LOG_ZERO

_HIDDEN, _ZERO, _REST = tl.constexpr(LOG_ZERO), tl.constexpr(ZERO), tl.constexpr(REST)


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
    SIZE: tl.constexpr, SOFTCAP: tl.constexpr, CODED: tl.constexpr, SCALED: tl.constexpr, BUCKET: tl.constexpr,
):  # fmt: skip
    """Scores of both maps, those of a teacher's rows up to a constant of the row, and what is visible."""
    visible = (columns[None, :] <= position[:, None]) & (columns[None, :] > position[:, None] - window)
    visible = visible & row_there[:, None] & (columns[None, :] < length)
    bucket = visible
    student = _capped(tl.dot(query, tl.trans(key), input_precision="ieee") * scaling, softcap, SOFTCAP)
    if CODED:
        places = (row_start - tl.maximum(position - window + 1, 0))[:, None] + columns[None, :]
        codes = tl.load(teacher_key + tl.cast(head, tl.int64) * entries + places, mask=visible, other=_ZERO)
        nothing = codes == _ZERO
        if BUCKET:
            bucket = codes == _REST
            nothing = nothing | bucket
        teacher = tl.where(nothing, _HIDDEN, -codes.to(tl.float32) * row_scale[:, None])
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
    return tl.where(visible, student, _HIDDEN), teacher, visible, bucket


@triton.jit
def _difference(
    student, teacher, visible, bucket, student_top, student_log, teacher_top, teacher_log, factor, softcap,
    SOFTCAP: tl.constexpr, BUCKET: tl.constexpr,
):  # fmt: skip
    """p_student − p_teacher, through the soft cap: the gradient of a row's divergence to the scores before it."""
    # The top first: what is left is small, where a log-sum-exp would round by what all of the row shares.
    difference = tl.exp(student - student_top[:, None] - student_log[:, None])
    difference -= tl.exp(teacher - teacher_top[:, None] - teacher_log[:, None])
    if BUCKET:
        difference = tl.where(bucket, difference * factor[:, None], difference)
    if SOFTCAP:
        capped = tl.where(visible, student, 0.0) / softcap
        difference = difference * (1.0 - capped * capped)
    return tl.where(visible, difference, 0.0)


# Lengths differ from sample to sample: a kernel for each kind of number would be compiled again and again.
_ANY_NUMBER = ["heads", "queries", "length", "entries", "window"]


@triton.jit(do_not_specialize=_ANY_NUMBER)
def divergence_by_queries(
    student_query, student_key, teacher_query, teacher_key, row_scale, key_scale, starts, positions, of_rows,
    key_of_head, teacher_sink, rest, sink, values, query_grad,
    heads, queries, length, entries, window, scaling, softcap, scale,
    SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CODED: tl.constexpr,
    SCALED: tl.constexpr, BUCKET: tl.constexpr, SOFTCAP: tl.constexpr, SINK: tl.constexpr, GRADIENT: tl.constexpr,
    LIFT: tl.constexpr,
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
    student_rest, teacher_rest, factor = cross * 0.0, cross * 0.0, cross * 0.0
    if BUCKET:
        teacher_rest = tl.load(rest + place, mask=row_there, other=0.0).to(tl.float32)
        # The codes count from the row's largest entry, which is never in the bucket.
        kept = teacher_sum * tl.exp(teacher_top)
        cross, teacher_sum, teacher_top = kept * cross, kept + teacher_rest, teacher_top * 0.0
    for start in range(first, end, KEYS):
        columns = start + tl.arange(0, KEYS)
        there = (columns[:, None] < length) & (channels[None, :] < SIZE)
        key = tl.load(key_base + columns[:, None] * SIZE + channels[None, :], mask=there, other=0.0)
        student, teacher, visible, bucket = _tile(
            query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
            channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED, BUCKET,
        )  # fmt: skip
        top = tl.maximum(student_top, tl.max(student, 1))
        shrunk, weights = tl.exp(student_top - top), tl.exp(student - top[:, None])
        student_sum = student_sum * shrunk + tl.sum(weights, 1)
        if BUCKET:
            student_rest = student_rest * shrunk + tl.sum(tl.where(bucket, weights, 0.0), 1)
        student_top = top
        top = tl.maximum(teacher_top, tl.max(teacher, 1))
        shrunk = tl.exp(teacher_top - top)
        weights = tl.where(visible, tl.exp(teacher - top[:, None]), 0.0)
        teacher_sum = teacher_sum * shrunk + tl.sum(weights, 1)
        cross = cross * shrunk + tl.sum(weights * tl.where(visible, teacher - student, 0.0), 1)
        teacher_top = top
    # Rows that are not there have sums of nothing.
    teacher_sum = tl.where(row_there, teacher_sum, 1.0)
    student_sum = tl.where(row_there, student_sum, 1.0)
    student_log, teacher_log = tl.log(student_sum), tl.log(teacher_sum)
    value = (student_top - teacher_top) + (student_log - teacher_log)
    if BUCKET:
        filled = (teacher_rest > 0.0) & (student_rest > 0.0)
        teacher_rest = tl.where(filled, teacher_rest / teacher_sum, 0.0)
        ratio = tl.where(filled, teacher_rest * student_sum / tl.where(filled, student_rest, 1.0), 1.0)
        value = value * (1.0 - teacher_rest) + teacher_rest * tl.log(ratio)
        factor = 1.0 - ratio
    value += cross / teacher_sum
    tl.store(values + place, value, mask=row_there)
    entry = tl.cast(heads, tl.int64) * queries
    tl.store(of_rows + place, student_top, mask=row_there)
    tl.store(of_rows + entry + place, student_log, mask=row_there)
    tl.store(of_rows + 2 * entry + place, teacher_top, mask=row_there)
    tl.store(of_rows + 3 * entry + place, teacher_log, mask=row_there)
    tl.store(of_rows + 4 * entry + place, factor, mask=row_there)
    if GRADIENT:
        gradient = tl.zeros([ROWS, PADDED], tl.float32)
        for start in range(first, end, KEYS):
            columns = start + tl.arange(0, KEYS)
            there = (columns[:, None] < length) & (channels[None, :] < SIZE)
            key = tl.load(key_base + columns[:, None] * SIZE + channels[None, :], mask=there, other=0.0)
            student, teacher, visible, bucket = _tile(
                query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
                channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED, BUCKET,
            )  # fmt: skip
            difference = _difference(
                student, teacher, visible, bucket, student_top, student_log, teacher_top, teacher_log, factor, softcap,
                SOFTCAP, BUCKET,
            )  # fmt: skip
            gradient += tl.dot((difference * LIFT).to(key.dtype), key, input_precision="ieee")
        tl.store(query_grad + at, gradient * (scale / LIFT), mask=inside)


@triton.jit(do_not_specialize=_ANY_NUMBER)
def gradient_by_keys(
    student_query, student_key, teacher_query, teacher_key, row_scale, key_scale, starts, positions, of_rows,
    key_grad, first_head, first_row, end_row, heads, queries, length, entries, window, scaling, softcap, scale,
    SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CODED: tl.constexpr,
    SCALED: tl.constexpr, BUCKET: tl.constexpr, SOFTCAP: tl.constexpr, LIFT: tl.constexpr,
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
            student, teacher, visible, bucket = _tile(
                query, key, other_query, teacher_key, key_scale, scales, row_start, position, row_there, columns,
                channels, head, owner, entries, length, window, scaling, softcap, SIZE, SOFTCAP, CODED, SCALED, BUCKET,
            )  # fmt: skip
            student_top = tl.load(of_rows + place, mask=row_there, other=0.0)
            student_log = tl.load(of_rows + entry + place, mask=row_there, other=0.0)
            teacher_top = tl.load(of_rows + 2 * entry + place, mask=row_there, other=0.0)
            teacher_log = tl.load(of_rows + 3 * entry + place, mask=row_there, other=0.0)
            factor = tl.load(of_rows + 4 * entry + place, mask=row_there, other=0.0)
            difference = _difference(
                student, teacher, visible, bucket, student_top, student_log, teacher_top, teacher_log, factor, softcap,
                SOFTCAP, BUCKET,
            )  # fmt: skip
            lifted = tl.trans((difference * LIFT).to(query.dtype))
            gradient += tl.dot(lifted, query, input_precision="ieee")
    tl.store(key_grad + at, gradient * (scale / LIFT), mask=there)
