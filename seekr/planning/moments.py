"""The moments at which a run holds most: its own steps and measures on paper, and what is alive at their peaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn

from seekr.attention.rows import QueryKeyRows, widest_block_alone
from seekr.attention.tap import AttentionCall
from seekr.data.token_rows import answer_tokens
from seekr.memory.reader import KeptSample, Memory
from seekr.methods import Method, Objective, TaskContext
from seekr.modeling.batches import MicroBatch, StepKind
from seekr.modeling.flat_tensors import FlatTensors
from seekr.planning.live import GRADIENTS, TEACHER, WEIGHTS, Bytes, Live
from seekr.planning.paper import BEFORE, Paper
from seekr.planning.rows import Shape, StageSteps
from seekr.training.gradient_share import gradient_shares


def step(paper: Paper, kind: StepKind, shape: Shape) -> Bytes:
    """Bytes at the peak of a step; no optimizer's state.

    Where micro-batches are accumulated, the one that finds gradients in place is counted, which holds the most; else
    the first one, in which the gradient of each part of the loss is measured too.
    """
    calls = paper.calls if kind == "replay" else {}
    more = paper.arguments.gradient_accumulation_steps > 1
    with paper.counting(shape.length) as live:
        rows, model, method = _rows(shape), _Prepared(paper), paper.method
        with live.part(TEACHER), TemporaryDirectory() as working:
            memory = _PaperMemory(method, rows, calls, paper.vocabulary)
            objective = method.pretend(_context(paper, rows, Path(working), memory))
        with live.part(GRADIENTS):
            for parameter in paper.to_train if more else ():
                parameter.grad = torch.empty_like(parameter)
        batch = _batch(objective, kind, rows, live)
        losses = objective.step_losses if kind == "task" else objective.replay_loss
        with _gradients_seen(paper, live), widest_block_alone():
            parts = losses(model, batch)
            if not more:
                gradient_shares(parts, model.parameters())
            torch.stack(list(parts.values())).sum().backward()
    return live.peak


def measuring(paper: Paper, shape: Shape) -> Bytes:
    """Bytes at the peak of measuring kept rows after a task, the model before the task as well as the new one: of a
    LoRA model its adapter, as both have one base."""
    with paper.counting(shape.length) as live, paper.precision(), widest_block_alone():
        rows = _rows(shape)
        paper.method.measure(rows, _context(paper, rows, Path()))
    shared = paper.method.form.shares_base(paper.model)
    return live.peak | {BEFORE: sum(it.nbytes for it in paper.to_train) if shared else live.peak[WEIGHTS]}


def kept_bytes(paper: Paper, stage: StageSteps) -> int:
    """What is kept of a task, in memory and on disk: tokens, their teacher's logits and its attention."""
    method, total = paper.method, 0
    for (tokens, answers), count in Counter(stage.rows.sizes[place] for place in stage.kept).items():
        (row,) = _rows(Shape(1, tokens, answers, False))
        with paper.blank():
            logits = method.likely_logits(row, paper.vocabulary)
        stored = 0 if logits is None else logits.ids.nbytes + logits.log_probs.nbytes
        attention = method.attention_bytes(method.likely_attention(paper.calls, tokens))
        total += count * (8 * tokens + stored + attention)  # ids and labels
    return total


def _rows(shape: Shape) -> list[KeptSample]:
    """Rows of a shape; where it is padded, the last one is a token shorter."""
    lengths = [shape.length] * shape.rows
    lengths[-1] -= shape.padded and shape.length > 2
    answers = [min(shape.answers, length - 1) for length in lengths]
    return [KeptSample.of([0] * (length - count), [0] * count) for length, count in zip(lengths, answers, strict=True)]


def _batch(objective: Objective, kind: StepKind, rows: list[KeptSample], live: Live) -> MicroBatch:
    """A micro-batch that is a whole step, with the signals that the objective asks for; they have no numbers."""
    source = -1 if kind == "task" else 0
    places = [(source, place) for place in range(len(rows))]
    tokens = sum(map(answer_tokens, rows))
    batch = MicroBatch.of(kind, rows, 0, rows=places, step_rows=places, step_tokens=tokens)
    read = objective.signals.get(source, lambda _: {})
    with live.part(TEACHER):
        signals = {f"{place}/{name}": tensor for place in range(len(rows)) for name, tensor in read(place).items()}
    batch.tensors = _Apart(dict(batch.tensors) | signals)
    return batch


class _Apart(FlatTensors):
    """Tensors in no common buffer: some have numbers and some have none."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._index: Any = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._index[name]
        return found

    def part(self, prefix: str) -> FlatTensors:
        return _Apart({name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)})


class _PaperMemory(Memory):
    """What is kept of an earlier task: rows with their teachers, which have no numbers."""

    def __init__(
        self, method: Method, rows: list[KeptSample], calls: Mapping[int, AttentionCall], entries: int
    ) -> None:
        self._method, self._rows, self._calls, self._entries = method, rows, calls, entries
        self.heads = self.attention(0).heads

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, sample: int) -> KeptSample:
        return self._rows[sample]

    def tensors(self, sample: int, *, logits: bool = False, attention: bool = False) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if logits and (kept := self._method.likely_logits(self._rows[sample], self._entries)) is not None:
            found |= {"logit_ids": kept.ids, "logit_log_probs": kept.log_probs}
        if attention:
            found["attention"] = torch.empty(self._method.attention_bytes(self.attention(sample).kept) // 4)
        return found

    def attention(self, sample: int, *_: Any) -> Any:
        return _PaperTeacher(self._method.likely_attention(self._calls, len(self._rows[sample].input_ids)))


@dataclass(frozen=True)
class _PaperTeacher:
    """The stored attention of one row (a `StoredAttention`), its maps computed from queries and keys."""

    kept: Mapping[int, QueryKeyRows]

    @property
    def heads(self) -> dict[int, Tensor]:
        return {layer: torch.arange(len(rows.query)) for layer, rows in self.kept.items()}

    @property
    def positions(self) -> Tensor | None:
        rows = next(iter(self.kept.values()))
        return rows.positions if len(rows.positions) < rows.key.shape[1] else None

    def heads_on(self, layer: int, device: torch.device) -> Tensor:
        return self.heads[layer].to(device)

    def rows(self, layer: int, _: torch.device) -> QueryKeyRows:
        return replace(self.kept[layer])  # without what another sample's comparison has computed of it


class _Prepared(nn.Module):
    """What accelerate makes of a model: autocast inside the forward, float32 outside."""

    def __init__(self, paper: Paper) -> None:
        super().__init__()
        self.model = paper.model
        call = paper.precision()(paper.model.__call__)
        self.forward = convert_outputs_to_fp32(call) if paper.half else call


@contextmanager
def _gradients_seen(paper: Paper, live: Live) -> Iterator[None]:
    with ExitStack() as hooks:
        for each in paper.to_train:
            hooks.enter_context(each.register_post_accumulate_grad_hook(lambda it: live.know([it.grad], GRADIENTS)))
        yield


@dataclass
class _PaperContext(TaskContext):
    """Of a task after one of which `kept` is there."""

    kept: Memory | None

    def memories(self) -> list[Memory]:
        return [] if self.kept is None else [self.kept]


def _context(paper: Paper, rows: list[KeptSample], folder: Path, kept: Memory | None = None) -> TaskContext:
    anything: Any = None
    return _PaperContext(
        task="", index=1, learn=True, seed=0, model=paper.model, before=lambda: paper.model, tokenizer_fingerprint="",
        model_fingerprint="", tokenizer=anything, pad_token_id=0, samples=rows, prompts=[], key_of=anything, metric="",
        max_new_tokens=1, max_length=len(rows[0].input_ids), device=torch.device("cpu"), stages=[], working=folder,
        micro_batch_rows=paper.arguments.per_device_train_batch_size, folder=folder,
        encrypt=False, track=lambda *_: nullcontext(lambda _: None), kept=kept,
    )  # fmt: skip
