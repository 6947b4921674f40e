"""KL(teacher's attention map || student's), for chosen heads and queries, without building the map.

The definition, the CPU path and the gradient in plain PyTorch. Scores are recomputed in blocks of rows; because the
divergence is a scalar per sample, its gradient p_student − p_teacher is contracted with the keys and queries as soon as
a block is known, so nothing of size length × length is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.profiler import record_function

from seekr.attention.rows import MapRows, QueryKeyRows, block_size, blocks, visible_columns
from seekr.attention.tap import AttentionCall
from seekr.modeling.precision import full_precision

PROFILED = "attention distillation"
"""What a profiler shows as the loss: reading teachers, its forward and its backward."""


@dataclass(frozen=True, slots=True)
class SampleTeacher:
    """What one sample of a batch is compared with in one layer.

    Attributes:
        sample: row of the batch.
        span: the sample's columns (start, stop).
        heads: [heads], indices of the chosen heads; best on the CPU.
        positions: [queries] ascending, counted from the sample's first token; None = every token.
        rows: the teacher's rows of these heads and queries.
        on_device: the same heads where the call lies; None = they are copied there.
    """

    sample: int
    span: tuple[int, int]
    heads: Tensor
    positions: Tensor | None
    rows: MapRows
    on_device: Tensor | None = None

    @property
    def nearest(self) -> Tensor:
        """The heads, where the call lies if they are there."""
        return self.heads if self.on_device is None else self.on_device

    def student(self, call: AttentionCall) -> QueryKeyRows:
        """The call's rows of these heads and queries."""
        return QueryKeyRows.of_call(call, self.sample, self.span, self.heads, self.positions, self.on_device)


def attention_divergence(call: AttentionCall, teachers: Sequence[SampleTeacher]) -> Tensor:
    """Mean over (head, query) of KL(teacher row || student row), in nats, for each sample of one layer.

    Args:
        call: the student's recorded attention call; float32, bfloat16 or float16.
        teachers: one for each sample that is compared.

    Returns:
        Tensor[len(teachers)], float32, differentiable in the call's query, key and sink.

    Source: SEEKR, arXiv 2411.06171 (attention distillation), with means for sums.
    """
    return divergence_by(_sample_divergence, call, teachers)


class Gradients(NamedTuple):
    """Of one sample's divergence.

    Attributes:
        query: [heads, queries, head_dim].
        key: [parts, length, head_dim].
        key_heads: [parts], the key/value head that each part is added to.
        sink: [heads], 0 without a sink.
    """

    query: Tensor
    key: Tensor
    key_heads: Tensor
    sink: Tensor


SampleDivergence = Callable[[AttentionCall, SampleTeacher, bool], tuple[Tensor, Gradients | None]]
"""The divergence of one sample, and its gradients where they are asked for."""


def divergence_by(measure: SampleDivergence, call: AttentionCall, teachers: Sequence[SampleTeacher]) -> Tensor:
    """`attention_divergence`, each sample being measured by `measure`."""
    if not teachers:
        return call.query.new_zeros(0, dtype=torch.float32)
    return _Divergence.apply(call.query, call.key, call.sink, measure, call, tuple(teachers))


class _Divergence(torch.autograd.Function):
    @staticmethod
    @full_precision()
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        sink: Tensor | None,
        measure: SampleDivergence,
        call: AttentionCall,
        teachers: tuple[SampleTeacher, ...],
    ) -> Tensor:
        needs_gradient = any(ctx.needs_input_grad[:3])
        found = [measure(call, teacher, needs_gradient) for teacher in teachers]
        # Without the teachers' rows, which would stay until the backward.
        ctx.places = [(one.sample, one.span, one.nearest, one.positions) for one in teachers]
        ctx.shapes = query.shape, key.shape, None if sink is None else sink.shape
        ctx.dtypes = query.dtype, key.dtype
        if needs_gradient:
            # float16 would lose gradients of this size before the loss scale reaches them.
            kept = torch.bfloat16 if query.dtype == torch.bfloat16 else torch.float32
            gradients = [gradient for _, gradient in found if gradient is not None]
            ctx.save_for_backward(*(part for one in gradients for part in _in(kept, one)))
        return torch.stack([value for value, _ in found])

    @staticmethod
    @once_differentiable
    @full_precision()
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        with record_function(PROFILED):
            return _scatter_gradients(ctx, upstream)


def _in(dtype: torch.dtype, gradient: Gradients) -> Gradients:
    return gradient._replace(query=gradient.query.to(dtype), key=gradient.key.to(dtype))


def _scatter_gradients(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    query_shape, key_shape, sink_shape = ctx.shapes
    query_dtype, key_dtype = ctx.dtypes
    gradients = ctx.saved_tensors
    query_grad = upstream.new_zeros(query_shape, dtype=query_dtype)
    key_grad = upstream.new_zeros(key_shape, dtype=key_dtype)
    sink_grad = None if sink_shape is None else upstream.new_zeros(sink_shape)
    for index, (sample, (start, stop), heads, positions) in enumerate(ctx.places):
        query_part, key_part, key_heads, sink_part = gradients[4 * index : 4 * index + 4]
        scale, heads = upstream[index], heads.to(upstream.device, non_blocking=True)
        part = (query_part * scale).to(query_dtype)
        if positions is None:
            query_grad[sample, :, start:stop].index_add_(0, heads, part)
        else:
            # One index over all rows: an index_put_ that accumulates sorts its indices first on a GPU.
            all_heads, length, size = query_shape[1:]
            positions = positions.to(upstream.device, non_blocking=True)
            rows = heads[:, None] * length + (positions + (sample * all_heads * length + start))
            query_grad.view(-1, size).index_add_(0, rows.flatten(), part.flatten(0, 1))
        keys = key_grad[sample, :, start:stop]
        keys.index_add_(0, key_heads, (key_part * scale).to(key_dtype))
        if sink_grad is not None:
            sink_grad.index_add_(0, heads, (sink_part * scale).to(sink_grad.dtype))
    return query_grad, key_grad, sink_grad, None, None, None


def _sample_divergence(
    call: AttentionCall, target: SampleTeacher, needs_gradient: bool
) -> tuple[Tensor, Gradients | None]:
    student = target.student(call)
    teacher = target.rows
    heads, queries, _ = student.queries.shape
    geometry = student.geometry
    share = 1.0 / (heads * queries)
    value = student.queries.new_zeros(())
    query_grad = torch.empty_like(student.queries)
    key_grad = torch.zeros_like(student.keys)
    sink_grad = student.queries.new_zeros(heads)
    for rows in blocks(queries, block_size(heads, student.keys.shape[1], student.keys.device)):
        columns = visible_columns(student.positions[rows], geometry.window)
        scores = student.scores(rows, columns)
        teacher_scores = teacher.scores(rows, columns, scores)
        probs, top, log_top = _softmax(scores)
        teacher_probs, teacher_top, teacher_log_top = _softmax(teacher_scores)
        ratio = teacher_scores.sub_(scores).sub_((teacher_top - top) - (teacher_log_top - log_top))
        value += torch.dot(teacher_probs.flatten(), ratio.flatten())
        if not needs_gradient:
            continue
        gradient = probs.sub_(teacher_probs)
        if student.sink is not None:
            sink_grad += gradient[..., -1].sum(dim=1)
            gradient, scores = gradient[..., :-1], scores[..., :-1]
        if geometry.softcap is not None:
            gradient = gradient * (1 - (scores / geometry.softcap).square()).clamp_(min=0)
        torch.baddbmm(
            query_grad[:, rows], gradient, student.keys[:, columns], beta=0, alpha=geometry.scaling * share,
            out=query_grad[:, rows],
        )  # fmt: skip
        key_grad[:, columns].baddbmm_(
            gradient.transpose(1, 2), student.queries[:, rows], alpha=geometry.scaling * share
        )
    if not needs_gradient:
        return value * share, None
    key_heads = target.nearest.to(key_grad.device) // (call.query.shape[1] // call.key.shape[1])
    return value * share, Gradients(query_grad, key_grad, key_heads, sink_grad * share)


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [heads, rows, columns], and the score and the log-probability of each row's largest entry [heads,
    rows, 1]: what tells scores from log-probabilities.

    Beside products, exponentials are most of what a CPU does here, and this takes one an entry where a log-softmax and
    its exponential take two.
    """
    probs = scores.softmax(dim=-1)
    return probs, scores.amax(dim=-1, keepdim=True), probs.amax(dim=-1, keepdim=True).log_()
