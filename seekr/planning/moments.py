"""The moments at which a run holds most: its steps and measures, taken on paper, and what is alive at their peaks.

Forward, losses, backward and the tap are the run's own. Only the kernel of the attention divergence, the rows of maps
and what was kept of earlier tasks are stood in for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from seekr.attention.sensitivity import sample_losses
from seekr.attention.tap import AttentionCall, Tap
from seekr.methods import Derpp, Ewc, KlAnchor, Method, Seekr
from seekr.methods.responses import Recorded
from seekr.modeling.batches import MicroBatch, StepKind
from seekr.modeling.loading import measuring
from seekr.modeling.losses import answer_positions, logits_at
from seekr.planning.kept import LayerTeacher, layer_teacher
from seekr.planning.live import GRADIENTS, TEACHER, Live
from seekr.planning.paper import Bytes, Paper
from seekr.planning.rows import Shape
from seekr.planning.stand_ins import divergence, kept_signals, with_kept
from seekr.training.gradient_share import gradient_shares

START, FORWARD, SHARES = "before the forward", "forward", "gradient shares"
LATE_LAYERS, BETWEEN, FIRST_LAYER = "late layers", "between", "first layer"
SENSITIVITY, OLD_MODEL, NEW_MODEL = "sensitivity", "change, old model", "change, new model"
Windows = dict[str, Bytes]
"""Part of a moment → bytes at its peak. Of a step these are what comes before its forward, forward and losses, and the
backward: up to the last layer's own, from the first's on, and between them."""


def task_step(paper: Paper, shape: Shape, *, checkpointing: bool) -> Windows:
    """Bytes alive in the micro-batches of a task step, the optimizer's state not counted."""
    if isinstance(paper.method, KlAnchor):  # it needs the logits of every token
        shape = replace(shape, answers=shape.length - 1)
    return _step(paper, "task", shape, checkpointing, {}, more=paper.arguments.gradient_accumulation_steps > 1)


def replay_step(
    paper: Paper, shape: Shape, *, checkpointing: bool, heads: Mapping[int, int], more: bool | None = None
) -> Windows:
    """The same of a replay step, in whose first one the gradient of each part of the loss is measured too.

    Args:
        heads: layer → how many of its heads are distilled.
        more: whether there are more micro-batches than one; None = as the run accumulates.
    """
    more = paper.arguments.gradient_accumulation_steps > 1 if more is None else more
    return _step(paper, "replay", shape, checkpointing, heads, more=more)


def measure_heads(paper: Paper, shape: Shape, *, checkpointing: bool) -> Windows:
    """Bytes alive while kept rows are measured after a task, without the model before it."""
    with paper.counting(shape, masked=shape.padded, checkpointing=checkpointing) as live, paper.precision():
        batch = paper.batch("replay", shape)
        with measuring(paper.model):
            live.window(SENSITIVITY)
            _sensitivity(paper.model, batch)
        _change(paper.model, batch, live)
    return live.peaks


def _step(
    paper: Paper, kind: StepKind, shape: Shape, checkpointing: bool, heads: Mapping[int, int], *, more: bool
) -> Windows:
    """`more`: the gradients of another micro-batch are there, so that this one holds the most of any; the first one,
    in which each part's gradient is measured, holds less."""
    queries = min(getattr(paper.method, "query_budget", None) or shape.length, shape.length)
    calls = paper.calls() if heads else {}
    teachers = {layer: layer_teacher(calls[layer], heads[layer], queries, shape.length) for layer in heads}
    with paper.counting(shape, checkpointing=checkpointing) as live:
        live.window(START)
        if more:
            with live.part(GRADIENTS):
                for parameter in (p for p in paper.model.parameters() if p.requires_grad):
                    parameter.grad = torch.empty_like(parameter)
        batch = _batch(paper, kind, shape, live, teachers)
        parts = _losses(paper, batch, shape, live, teachers)
        if not more:
            live.window(SHARES)
            gradient_shares(parts, paper.model.parameters())
        del batch
        live.window(LATE_LAYERS)
        with _watching(paper, live):
            torch.stack(list(parts.values())).sum().backward()
        del parts
        paper.model.zero_grad(set_to_none=True)
    return live.peaks


@contextmanager
def _watching(paper: Paper, live: Live) -> Iterator[None]:
    """Sees gradients as they come, and opens a window when the last layer has all of its own, and the second."""
    ends = (BETWEEN, paper.layers[-1:]), (FIRST_LAYER, paper.layers[:2][-1:])
    waiting = [(name, {id(p) for layer in some for p in layer.parameters() if p.requires_grad}) for name, some in ends]

    def see(parameter: Parameter) -> None:
        live.know([parameter.grad], GRADIENTS)  # type: ignore[list-item]
        for name, pending in waiting:
            if id(parameter) in pending:
                pending.remove(id(parameter))
                if not pending:
                    live.window(name)

    hooks = [p.register_post_accumulate_grad_hook(see) for p in paper.model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _batch(paper: Paper, kind: StepKind, shape: Shape, live: Live, teachers: Mapping[int, LayerTeacher]) -> MicroBatch:
    with live.part(TEACHER):
        signals = kept_signals(paper.method, kind, shape, teachers, vocabulary=paper.vocabulary)
        if signals:
            return paper.batch(kind, shape, signals)
    return paper.batch(kind, shape)


def _losses(
    paper: Paper, batch: MicroBatch, shape: Shape, live: Live, teachers: Mapping[int, LayerTeacher]
) -> dict[str, Tensor]:
    trained = ((name, p) for name, p in paper.model.named_parameters() if p.requires_grad)
    method, forward = with_kept(paper.method, shape, live, trained), _Prepared(paper, live)
    if batch.kind == "task":
        own = isinstance(method, Ewc | Recorded)
        return method.step_losses(forward, batch) if own else Method.task_loss(method, forward, batch)
    if not isinstance(method, Derpp):
        return {"replay": Method.task_loss(method, forward, batch)["task"]}
    if not isinstance(method, Seekr) or not method.attention_weight:
        return Derpp.replay_loss(method, forward, batch)
    with Tap(paper.model, teachers) as tap:
        parts = Derpp.replay_loss(method, forward, batch)
    divergences = [divergence(call, teachers[layer], shape, live) for layer, call in tap.calls.items()]
    return parts | {"attention": method.weight * torch.stack(divergences).sum()}


class _Prepared(nn.Module):
    """What accelerate makes of a model: autocast inside the forward, float32 outside."""

    def __init__(self, paper: Paper, live: Live) -> None:
        super().__init__()
        self.model = paper.model
        self._paper, self._live = paper, live

    def forward(self, **inputs: Any) -> Any:
        self._live.window(FORWARD)
        with self._paper.precision():
            output = self.model(**inputs)
        if self._paper.arguments.bf16 or self._paper.arguments.fp16:
            output.logits = output.logits.float()
        return output


def _sensitivity(model: nn.Module, batch: MicroBatch) -> None:
    """Its forward and backward, which keep the values of all layers until they are done."""
    values: list[Tensor] = []
    first: list[Tensor] = []

    def keep(_: int, call: AttentionCall) -> None:
        values.append(call.value.detach())
        first.append(call.output) if not first else None

    with Tap(model, consume=keep):
        loss = sample_losses(logits_at(model, batch.inputs, *answer_positions(batch.labels)), batch.labels).sum()
    torch.autograd.grad(loss, first)


def _change(model: nn.Module, batch: MicroBatch, live: Live) -> None:
    """One model's queries and keys of all layers, and the other's layer by layer beside them."""
    calls: dict[int, AttentionCall] = {}
    anywhere = torch.zeros(1, dtype=torch.long)

    def keep(layer: int, call: AttentionCall) -> None:
        nothing = call.value.new_empty(0)
        calls[layer] = replace(call, value=nothing, output=nothing)

    def compare(layer: int, call: AttentionCall) -> None:
        del calls[layer]
        one_sample = call.query[0]
        _ = [torch.empty_like(one_sample, dtype=torch.float32) for _ in ("query", "key") for _ in ("old", "new")]

    moments: list[tuple[str, Callable[[int, AttentionCall], None]]] = [(OLD_MODEL, keep), (NEW_MODEL, compare)]
    for window, take in moments:
        live.window(window)
        with torch.no_grad(), Tap(model, consume=take):
            logits_at(model, batch.inputs, anywhere, anywhere)
