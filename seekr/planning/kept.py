"""What a run keeps, in bytes: of each past task its rows and teachers, on disk its stages and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from seekr.attention.heads import resolve_budgets
from seekr.attention.stored import TRIFLE, TeacherForm, compact_bytes
from seekr.methods import Derpp, Ewc, OnPolicyReplay, Seekr

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from seekr.attention.tap import AttentionCall
    from seekr.methods import Method
    from seekr.planning.rows import StageSteps


@dataclass(frozen=True)
class LayerTeacher:
    """The chosen heads of one layer of one kept sample, with the sizes that its bytes follow from."""

    heads: int
    key_heads: int
    size: int
    queries: int
    length: int
    itemsize: int


@dataclass(frozen=True)
class SampleBytes:
    """What is kept of one row: its tokens, its teacher's logits, its teacher's attention."""

    tokens: int
    logits: int
    attention: int

    @property
    def total(self) -> int:
        return self.tokens + self.logits + self.attention


def keeps_attention(method: Method) -> TypeGuard[Seekr]:
    """Whether heads are measured after a task, and attention is kept."""
    return isinstance(method, Seekr) and (bool(method.attention_weight) or not isinstance(method, OnPolicyReplay))


def keeps_logits(method: Method) -> TypeGuard[Derpp]:
    """Whether logits are kept with each row."""
    needed = keeps_attention(method) or not isinstance(method, OnPolicyReplay)
    return isinstance(method, Derpp) and (needed or bool(method.logit_weight))


def chosen_heads(method: Seekr, text: Any) -> dict[int, int]:
    """layer → chosen heads: the budget spread evenly, since the heads are chosen by what is measured."""
    layers, heads = int(text.num_hidden_layers), int(text.num_attention_heads)
    layer_budget, head_budget = resolve_budgets(layers, heads, method.layer_budget, method.head_budget)
    spread = {i: head_budget * (i + 1) // layer_budget - head_budget * i // layer_budget for i in range(layer_budget)}
    return {layer: count for layer, count in spread.items() if count}


def layer_teacher(call: AttentionCall, heads: int, queries: int, length: int) -> LayerTeacher:
    """Of a layer whose call was recorded; each chosen head is taken to have a key/value head of its own, while there
    are any."""
    key_heads = min(heads, call.key.shape[1])
    return LayerTeacher(heads, key_heads, call.query.shape[-1], queries, length, call.query.element_size())


def attention_bytes(teacher: LayerTeacher, form: TeacherForm) -> float:
    """Bytes of a layer of a sample in a form, but for a few a head.

    "auto" is the smallest form that any map may be kept in: whether the largest entries alone will do ("top", which
    takes less) is seen from the maps.
    """
    vectors = teacher.heads * teacher.queries + teacher.key_heads * teacher.length
    exact = float(teacher.itemsize * teacher.size * vectors)
    compact = compact_bytes(teacher.heads, teacher.key_heads, teacher.size, teacher.queries, teacher.length)
    if form == "exact" or (form == "auto" and exact <= TRIFLE):
        return exact
    return compact[form] if form != "auto" else min(compact["rows"], compact["query_key"])


def sample_bytes(
    method: Method, calls: Mapping[int, AttentionCall], text: Any, *, tokens: int, answers: int
) -> SampleBytes:
    """Bytes of one kept row; `calls` holds a recorded call of each layer, of any length."""
    logits = attention = 0.0
    if keeps_logits(method):
        top = min(method.logit_top_k or text.vocab_size, text.vocab_size)
        logits = answers * top * (4 + (4 if method.logit_top_k is None else 2))  # id and log-probability
    if keeps_attention(method):
        queries = min(method.query_budget or tokens, tokens)
        attention = 0.0 if queries == tokens else 4.0 * queries  # their positions
        for layer, heads in chosen_heads(method, text).items():
            teacher = layer_teacher(calls[layer], heads, queries, tokens)
            attention += attention_bytes(teacher, method.teacher_form)
    return SampleBytes(8 * tokens, round(logits), round(attention))  # ids and labels


@dataclass(frozen=True)
class Disk:
    """Bytes of the weights of all stages that are kept, of one, and of what is there while a task is learned.

    `most_checkpoints`: how many there are at most at a time, `checkpoints`: their bytes.
    """

    stages: int
    one_stage: int
    kept_stages: int
    checkpoints: int
    most_checkpoints: int


def disk(
    method: Method, arguments: TrainingArguments, stages: Sequence[StageSteps], *, keep: str | int, stored: int,
    trained: int, dtype: str, optimizer: int | None = None,
) -> Disk:  # fmt: skip
    """Disk of a run whose stages hold `stored` parameters, of which `trained` are trained.

    A checkpoint holds the weights and the optimizer's state (`optimizer` bytes; None: AdamW's two numbers beside each
    trained weight). Every `save_steps` steps one is written, and one behind the last; one more of them is there than
    `save_total_limit` while the next is written, and all are where that is null.
    """
    learned = [stage for stage in stages if stage.rows.learn]
    item = getattr(torch, dtype).itemsize
    kept = len(learned) if keep == "all" else min(len(learned), 1 if keep == "last" else int(keep))
    one = stored * item + (2 * 4 * trained if isinstance(method, Ewc) else 0)  # its Fisher information and anchors
    state = 2 * trained * item if optimizer is None else optimizer
    count = max((math.ceil(stage.steps / arguments.save_steps) for stage in learned), default=0)
    if arguments.save_total_limit is not None:
        count = min(count, arguments.save_total_limit + 1)
    return Disk(kept * one, one, kept, count * (stored * item + state), count)
