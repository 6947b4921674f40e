"""One optimizer step on a replay batch: without attention distillation, with it, and by built maps.

On a CPU each way lives in a process of its own, so that its memory high-water mark is its own; on a GPU, which tells
how much of it was given out, one model takes them all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from seekr.attention.divergence import PROFILED
from seekr.bench.meters import TURNS, held_bytes, in_turn, peak_bytes, reset_peak, timed
from seekr.bench.shapes import Shape, Way
from seekr.memory.reader import Memory
from seekr.memory.writer import MemoryWriter
from seekr.methods import Derpp, Seekr
from seekr.methods.derpp import LogitReplay
from seekr.methods.seekr import AttentionReplay
from seekr.modeling.batches import MicroBatch
from seekr.training.order import Slot, Step
from seekr.training.rows import Rows

SLOW_TURNS = 4
WAYS: tuple[Way, ...] = (("plain", None), ("seekr", None), ("seekr", 100), ("eager", None))


def step_rows(
    shape: Shape, length: int, ways: Sequence[Way] = WAYS, *, apart: bool | None = None
) -> list[dict[str, Any]]:
    """The "step" rows: medians of TURNS steps (SLOW_TURNS of built maps from 2048 tokens on a CPU).

    `own_share` is the part of one more step that a CPU spends on attention distillation: reading teachers, its forward
    and backward. A way that does not fit the device has no seconds.

    Args:
        shape, length: the model, and tokens of a row.
        ways: a row for each.
        apart: whether each way has a process of its own; None = on a CPU.
    """
    on_cpu = shape.device == "cpu"
    with tempfile.TemporaryDirectory(prefix="seekr-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        for queries in dict.fromkeys(queries for _, queries in ways):
            remember(folder / str(queries), shape, length, queries)
        if on_cpu if apart is None else apart:
            pools = {way: ProcessPoolExecutor(1, get_context("spawn"), _begin, (folder, shape, [way])) for way in ways}
            for pool in pools.values():
                stack.enter_context(pool)

            def ask(method: Callable[[Steps, Way], Any], way: Way) -> Any:
                return pools[way].submit(_apart, method, way).result()

        else:
            steps = Steps(folder, shape, ways)

            def ask(method: Callable[[Steps, Way], Any], way: Way) -> Any:
                return method(steps, way)

        slow = {way: SLOW_TURNS for way in ways if on_cpu and way[0] == "eager" and length >= 2048}
        found = in_turn({way: partial(ask, Steps.step, way) for way in ways}, TURNS, slow)
        shares = {way: ask(Steps.own_share, way) if on_cpu and way[0] == "seekr" else None for way in ways}
    common = {"what": "step", "model": shape.name, "device": shape.device, "length": length}
    return [common | {"path": way[0], "queries": way[1]} | _row(found[way], shares[way]) for way in ways]


def _row(taken: list[dict[str, Any]], own_share: float | None) -> dict[str, Any]:
    if any(step["seconds"] is None for step in taken):
        return {"seconds": None, "peak_bytes": None}
    return {
        "seconds": median(step["seconds"] for step in taken),
        "own_share": own_share,
        "peak_bytes": max(step["peak_bytes"] for step in taken),
        "all_seconds": [round(step["seconds"], 4) for step in taken],
    }


def remember(folder: Path, shape: Shape, length: int, queries: int | None) -> None:
    """What an earlier model left of the batch, in the form that a run would keep."""
    method = Seekr(query_budget=queries)
    heads = {layer: torch.tensor(chosen) for layer, chosen in shape.chosen_heads().items()}
    samples = shape.rows(length)
    writer = MemoryWriter(folder, samples, task="bench", tokenizer_fingerprint="", model_fingerprint="", heads=heads)
    draw = np.random.default_rng(0)
    writer.ask(shape.model(1), method.stored_logits, queries=[method.drawn_queries(length, draw) for _ in samples])
    writer.close()


class Steps:
    """A model that takes an optimizer step on one replay batch by any of the ways that it is made for.

    Args:
        folder: what `remember` wrote, one folder a query budget.
        shape: the model, and how many rows.
        ways: those that will be asked for.
    """

    def __init__(self, folder: Path, shape: Shape, ways: Sequence[Way]) -> None:
        self.device = shape.device
        self._model = shape.model(0).train()
        rows = tuple((0, sample) for sample in range(shape.samples))
        self._slot = Slot(Step("replay", rows), rows, filler=False)
        self._objectives: dict[Way, LogitReplay] = {}
        self._rows: dict[Way, Rows] = {}
        for way in ways:
            kept = [Memory.open(folder / str(way[1]), verify=False)]
            objective = AttentionReplay(Seekr(), kept) if way[0] == "seekr" else LogitReplay(Derpp(), kept)
            self._objectives[way] = objective
            self._rows[way] = Rows([], kept, 0, objective.signals)
        self._heads = shape.chosen_heads()
        self._maps: dict[int, Any] = {}
        if any(name == "eager" for name, _ in ways):
            with suppress(torch.OutOfMemoryError):
                self._maps = self._built_maps(shape)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5, betas=(0.9, 0.95))
        self._before = held_bytes(self.device)
        reset_peak(self.device)

    def step(self, way: Way) -> dict[str, Any]:
        """Seconds and peak bytes (over what is held before the first step) of a step; None where memory does not
        suffice."""
        eager = way[0] == "eager"
        if eager and not self._maps:
            return {"seconds": None}
        if self.device != "cpu":
            reset_peak(self.device)
        self._model.set_attn_implementation("eager" if eager else "sdpa")
        try:
            seconds = timed(partial(self.take, way), self.device)
        except torch.OutOfMemoryError:
            self._optimizer.zero_grad(set_to_none=True)
            return {"seconds": None}
        return {"seconds": seconds, "peak_bytes": peak_bytes(self.device) - self._before}

    def own_share(self, way: Way) -> float:
        """The part of a step on a CPU that the profiler finds under the name of attention distillation."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            seconds = timed(partial(self.take, way), self.device)
        return sum(event.cpu_time_total for event in found.key_averages() if event.key == PROFILED) / 1e6 / seconds

    def take(self, way: Way) -> None:
        """The step itself."""
        objective = self._objectives[way]
        batch = self.read(way)  # in the step, by no worker
        by_maps = way[0] == "eager"
        parts = self._eager_parts(objective, batch) if by_maps else objective.replay_loss(self._model, batch)
        torch.stack(list(parts.values())).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def read(self, way: Way) -> MicroBatch:
        """The batch and its teachers, moved to the device."""
        return self._rows[way][self._slot].to(self.device)

    def _built_maps(self, shape: Shape) -> dict[int, Any]:
        """The teacher's maps of the chosen heads in bfloat16, [samples, heads, length, length], as the released code
        keeps them."""
        model = shape.model(1).eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            inputs = next(iter(self._rows.values()))[self._slot].to(shape.device).inputs
            maps = model(**inputs, use_cache=False, output_attentions=True).attentions
        return {layer: maps[layer][:, list(chosen)].to(torch.bfloat16) for layer, chosen in self._heads.items()}

    def _eager_parts(self, objective: LogitReplay, batch: MicroBatch) -> dict[str, Any]:
        output = self._model(**batch.inputs, use_cache=False, output_attentions=True)
        parts = objective.logit_parts(output.logits[objective.asked(batch)], batch)
        losses = []
        for layer, kept in self._maps.items():
            teacher, student = kept.float(), output.attentions[layer][:, list(self._heads[layer])]
            losses.append((teacher * ((teacher + 1e-8).log() - (student + 1e-8).log())).sum(dim=-1).mean())
        return dict(parts) | {"attention": 1000 * torch.stack(losses).mean()}


_steps: Steps
"""In a process that takes the steps of one way."""


def _begin(*given: Any) -> None:
    global _steps
    _steps = Steps(*given)


def _apart(method: Callable[[Steps, Way], Any], way: Way) -> Any:
    return method(_steps, way)
