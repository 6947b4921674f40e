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
from torch import Tensor
from triton import knobs

from seekr.attention.divergence import Gradients, SampleTeacher, divergence_by
from seekr.attention.kernels import divergence_by_queries, gradient_by_keys
from seekr.attention.map_rows import ZERO, StoredRows, visible
from seekr.attention.rows import LOG_ZERO, MapRows, QueryKeyRows
from seekr.attention.tap import AttentionCall


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
    student = target.student(call)
    query, key, positions = _product(student.query), _product(student.key), student.positions.contiguous()
    heads, queries, size = query.shape
    length = key.shape[1]
    window = call.geometry.window or length
    sink = None if student.sink is None else student.sink.float().contiguous()
    teacher = _read(target.rows)
    teacher_sink, rest = teacher.pop("teacher_sink"), teacher.pop("rest")
    rows, keys, warps, stages = _block_sizes(query.dtype, size)
    values = query.new_empty(heads, queries, dtype=torch.float32)
    # Of student and teacher: each row's largest score, and the logarithm of its sum after that is taken off; and what
    # the gradient in the bucket is multiplied by.
    of_rows = query.new_empty(5, heads, queries, dtype=torch.float32)
    query_grad = query.new_empty(query.shape, dtype=torch.float32) if needs_gradient else values
    shared: dict[str, Any] = {
        "student_query": query, "student_key": key, **teacher, "positions": positions, "of_rows": of_rows,
        "heads": heads, "queries": queries, "length": length, "window": window, "scaling": call.geometry.scaling,
        "softcap": call.geometry.softcap or 1.0, "scale": call.geometry.scaling / values.numel(),
        "SIZE": size, "PADDED": max(16, triton.next_power_of_2(size)), "ROWS": rows, "KEYS": keys,
        "SOFTCAP": call.geometry.softcap is not None, "num_warps": warps, "num_stages": stages,
        # The difference of two probabilities may lie below the range of float16, and is at most 1.
        "LIFT": 2.0**15 if query.dtype == torch.float16 else 1.0,
    }  # fmt: skip
    with torch.cuda.device_of(query):
        divergence_by_queries[(triton.cdiv(queries, rows), heads)](
            **shared, key_of_head=student.key_of_head, values=values, query_grad=query_grad,
            sink=values if sink is None else sink, teacher_sink=teacher_sink, rest=rest,
            SINK=sink is not None, GRADIENT=needs_gradient,
        )  # fmt: skip
        value = values.mean()
        if not needs_gradient:
            return value, None
        edges = torch.arange(0, length, keys, device=query.device)
        key_grad = torch.empty_like(key, dtype=torch.float32)
        owners = torch.arange(len(key) + 1, device=query.device)
        gradient_by_keys[(len(edges), len(key))](
            **shared, key_grad=key_grad, first_head=torch.searchsorted(student.key_of_head, owners),
            first_row=torch.searchsorted(positions, edges),
            end_row=torch.searchsorted(positions, edges + keys - 1 + window),
        )  # fmt: skip
    if sink is None:
        sink_grad = query.new_zeros(heads, dtype=torch.float32)
    else:
        lost = torch.exp(sink[:, None] - of_rows[0] - of_rows[1]) - torch.exp(teacher_sink - of_rows[2] - of_rows[3])
        sink_grad = lost.sum(dim=1) / values.numel()
    read = target.nearest.to(key.device, non_blocking=True) // (call.query.shape[1] // call.key.shape[1])
    key_heads = read.new_empty(len(key)).scatter_(0, student.key_of_head, read)
    return value, Gradients(query_grad, key_grad, key_heads, sink_grad)


def _read(rows: MapRows) -> dict[str, Any]:
    """A teacher as the kernels take it: queries and keys, or codes; what a form has not got is never looked at."""
    if isinstance(rows, QueryKeyRows):
        query, key = _product(rows.query), _product(rows.key)
        scales = rows.query_scale, rows.key_scale
        sink = query if rows.sink is None else rows.sink.float()[:, None].expand(query.shape[:2]).contiguous()
        return {
            "teacher_query": query, "teacher_key": key, "starts": query, "teacher_sink": sink, "rest": query,
            "row_scale": query if scales[0] is None else scales[0].contiguous(),
            "key_scale": query if scales[1] is None else scales[1].contiguous(),
            "entries": 0, "CODED": False, "SCALED": scales[0] is not None, "BUCKET": False,
        }  # fmt: skip
    if not isinstance(rows, StoredRows):
        raise TypeError(f"{type(rows).__name__}: no rows that the kernels know")
    codes, step, entries = rows.codes.contiguous(), rows.step.contiguous(), rows.codes.shape[1]
    sink = step
    if rows.sink:
        last = codes[:, rows.starts + visible(rows.positions, rows.geometry.window)[1]]
        sink = (last.float() * -step.float()).masked_fill_(last == ZERO, LOG_ZERO)
    return {
        "teacher_query": codes, "teacher_key": codes, "row_scale": step, "key_scale": step, "starts": rows.starts,
        "teacher_sink": sink, "rest": step if rows.rest is None else rows.rest.contiguous(),
        "entries": entries, "CODED": True, "SCALED": False, "BUCKET": rows.rest is not None,
    }  # fmt: skip


def _product(tensor: Tensor) -> Tensor:
    """As the kernels multiply it. Triton's interpreter takes bfloat16 for integers."""
    wide = knobs.runtime.interpret and tensor.dtype == torch.bfloat16
    return (tensor.float() if wide else tensor).contiguous()


def _block_sizes(dtype: torch.dtype, size: int) -> tuple[int, int, int, int]:
    """(queries, keys, warps, stages) of a program, so that its tiles stay in registers and in the shared memory of
    consumer GPUs too, 99 KiB from compute capability 8.6 on."""
    wide = size > 128
    if dtype == torch.float32:
        return (16, 16, 4, 2) if wide else (32, 32, 4, 2)
    return (32, 32, 4, 3) if wide else (64, 64, 4, 3)
