"""What stands in for kept signals and for kernels in steps on paper: tensors of the same sizes, without numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from seekr.modeling.batches import StepKind
from seekr.planning.kept import LayerTeacher, attention_bytes
from seekr.planning.live import DISTILLATION, TEACHER, Live
from seekr.planning.rows import Shape

if TYPE_CHECKING:
    from seekr.attention.tap import AttentionCall


def with_kept(method: Method, shape: Shape, live: Live, trained: Iterable[tuple[str, Parameter]]) -> Method:
    """A copy of a method that has something from earlier tasks: a penalty, rows that are held.

    `trained`: (name, parameter) of all that is trained.
    """
    method = deepcopy(method)
    if isinstance(method, KlAnchor):
        method.predicted = [shape.length - 1] * shape.rows
    if isinstance(method, Ewc):
        method.held = list(trained)
        method.quadratic = _KeptQuadratic(method.held, live)
    return method


def kept_signals(
    method: Method, kind: StepKind, shape: Shape, teachers: Mapping[int, LayerTeacher], *, vocabulary: int
) -> dict[str, Tensor]:
    """What a micro-batch carries of its rows' teachers: logits in their real form, of each layer as many bytes."""
    one: dict[str, Tensor] = {}
    replays = kind == "replay" and isinstance(method, Derpp) and method.logit_weight
    if replays or (kind == "task" and isinstance(method, Recorded) and method.weight):
        top = method.logit_top_k  # type: ignore[attr-defined]
        entries = min(shape.answers, shape.length - 1), min(top or vocabulary, vocabulary)
        dtype = torch.float16 if replays and top is not None else torch.float32
        one = {
            "logit_ids": torch.empty(entries, dtype=torch.int32),
            "logit_log_probs": torch.empty(entries, dtype=dtype),
        }
    if kind == "replay" and isinstance(method, Seekr) and method.attention_weight:
        for layer, teacher in teachers.items():
            stored = round(attention_bytes(teacher, method.teacher_form))
            one[f"{layer}/stored"] = torch.empty(stored, dtype=torch.uint8)
    return {f"{row}/{name}": tensor for row in range(shape.rows) for name, tensor in one.items()}


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


def divergence(call: AttentionCall, teacher: LayerTeacher, shape: Shape, live: Live) -> Tensor:
    """The divergence of a layer, its kernel stood in for by the tensors that it makes."""
    with live.part(DISTILLATION):
        heads = torch.zeros(teacher.heads, dtype=torch.long)
        positions = None if teacher.queries == shape.length else torch.zeros(teacher.queries, dtype=torch.long)
        targets = [
            SampleTeacher(row, (0, shape.length), heads, positions, None)  # type: ignore[arg-type]
            for row in range(shape.rows)
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
