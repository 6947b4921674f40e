"""What stands in for kept signals and for kernels in steps on paper: tensors of the same sizes, without numbers."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from seekr.attention.divergence import Gradients, SampleTeacher, divergence_by
from seekr.attention.rows import block_size
from seekr.methods import Derpp, Ewc, KlAnchor, Method, Seekr
from seekr.methods.ewc import Quadratic
from seekr.methods.responses import Recorded
from seekr.modeling.losses import TopLogits
from seekr.planning.kept import LayerTeacher, attention_bytes
from seekr.planning.live import DISTILLATION, TEACHER, Live
from seekr.planning.rows import Shape

if TYPE_CHECKING:
    from seekr.attention.tap import AttentionCall


def with_kept(
    method: Method, shape: Shape, live: Live, *, vocabulary: int, trained: Iterable[tuple[str, Parameter]]
) -> Method:
    """A copy of a method that has something from earlier tasks: kept rows, responses, a penalty.

    `trained`: (name, parameter) of all that is trained.
    """
    method = deepcopy(method)
    answers = min(shape.answers, shape.length - 1)
    if isinstance(method, Derpp):
        k, dtype = method.logit_top_k or vocabulary, torch.float32 if method.logit_top_k is None else torch.float16
        method.memories = [_KeptLogits((answers, min(k, vocabulary)), dtype, live)]  # type: ignore[list-item]
    if isinstance(method, Recorded) and method.weight:
        k = min(method.logit_top_k or vocabulary, vocabulary)
        method.responses = _KeptLogits((answers, k), torch.float32, live)  # type: ignore[assignment]
    if isinstance(method, KlAnchor):
        method.predicted = [shape.length - 1] * shape.rows
    if isinstance(method, Ewc):
        method.held = list(trained)
        method.quadratic = _KeptQuadratic(method.held, live)
    return method


class _KeptLogits:
    """A memory that has the logits of every row, in their real form."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, live: Live) -> None:
        self._shape, self._dtype, self._live = shape, dtype, live

    def read_ahead(self, sample: int) -> None: ...

    def logits(self, sample: int) -> TopLogits:  # noqa: ARG002 - they are all alike
        with self._live.part(TEACHER):
            ids = torch.zeros(self._shape, dtype=torch.int32)
            return TopLogits(ids, torch.zeros(self._shape, dtype=self._dtype))


class _KeptQuadratic(Quadratic):
    """Fisher information and anchors, read one parameter at a time."""

    def __init__(self, trained: list[tuple[str, Parameter]], live: Live) -> None:
        self.names = {name for name, _ in trained}
        self.constant = 0.0
        self._shapes = {name: parameter.shape for name, parameter in trained}
        self._live = live

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        with self._live.part(TEACHER):
            return torch.zeros(self._shapes[name]), torch.zeros(self._shapes[name])


def divergence(call: AttentionCall, teacher: LayerTeacher, method: Seekr, shape: Shape, live: Live) -> Tensor:
    """The divergence of a layer, its kernel stood in for by the tensors that it makes."""
    with live.part(TEACHER):
        stored = round(attention_bytes(teacher, method.teacher_form))
        loaded = [torch.empty(stored, dtype=torch.uint8) for _ in range(shape.rows)]
    with live.part(DISTILLATION):
        heads = torch.zeros(teacher.heads, dtype=torch.long)
        positions = None if teacher.queries == shape.length else torch.zeros(teacher.queries, dtype=torch.long)
        targets = [
            SampleTeacher(row, (0, shape.length), heads, positions, rows)  # type: ignore[arg-type]
            for row, rows in enumerate(loaded)
        ]
        return divergence_by(_kernel, call, targets).sum()


def _kernel(call: AttentionCall, target: SampleTeacher, _: bool) -> tuple[Tensor, Gradients]:
    """What the PyTorch definition of the divergence makes of one sample: vectors in float32, blocks of scores."""
    heads, length, size = len(target.heads), target.span[1] - target.span[0], call.query.shape[-1]
    queries = length if target.positions is None else len(target.positions)
    vectors = [torch.empty((heads, count, size)) for count in (queries, length) for _ in ("student", "teacher")]
    block = min(block_size(heads, length), queries)
    scores = [torch.empty((heads, block, length)) for _ in ("scores", "student", "teacher", "its exponential")]
    query, key = torch.empty((heads, queries, size)), torch.empty((heads, length, size))
    gradients = Gradients(query, key, target.heads, torch.empty(heads))
    del vectors, scores
    return torch.zeros(()), gradients
