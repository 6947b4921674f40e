"""A model, a replay batch, and a step of it by one way: without attention distillation, with it, by built maps."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr.bench.meters import held_bytes, own_code, peak_bytes, reset_peak, timed
from seekr.bench.shapes import Shape, Way

if TYPE_CHECKING:
    from seekr.methods.derpp import LogitReplay
    from seekr.modeling.batches import MicroBatch
    from seekr.training.rows import Rows


def remember(folder: Path, shape: Shape, length: int, queries: int | None) -> None:
    """What an earlier model left of the batch, in the form that a run would keep."""
    import numpy as np
    import torch

    from seekr.memory.writer import MemoryWriter
    from seekr.methods import Seekr

    method = Seekr(query_budget=queries)
    model = shape.model(1)
    heads = {layer: torch.tensor(chosen) for layer, chosen in shape.chosen_heads().items()}
    samples = shape.rows(length)
    writer = MemoryWriter(folder, samples, task="bench", tokenizer_fingerprint="", model_fingerprint="", heads=heads)
    draw = np.random.default_rng(0)
    drawn = [method.drawn_queries(length, draw) for _ in samples]
    writer.ask(model, method.stored_logits, queries=drawn)
    writer.close()


class Steps:
    """A model that takes an optimizer step on one replay batch by any of the ways that it is made for.

    Args:
        folder: what `remember` wrote, one folder a query budget.
        shape: the model, and how many rows.
        ways: those that will be asked for.
    """

    def __init__(self, folder: Path, shape: Shape, ways: list[Way]) -> None:
        import torch

        from seekr.memory.reader import Memory
        from seekr.methods import Derpp, Seekr
        from seekr.methods.derpp import LogitReplay
        from seekr.methods.seekr import AttentionReplay
        from seekr.training.order import Slot, Step
        from seekr.training.rows import Rows

        self._device = shape.device
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
        self._before = held_bytes(self._device)
        reset_peak(self._device)

    def step(self, way: Way) -> dict[str, Any]:
        """Seconds and peak bytes (over what is held before the first step) of a step, and the seconds of it that a CPU
        spends on attention distillation. No seconds where memory does not suffice."""
        import torch

        eager = way[0] == "eager"
        if eager and not self._maps:
            return {"seconds": None}
        if self._device != "cpu":
            reset_peak(self._device)
        self._model.set_attn_implementation("eager" if eager else "sdpa")
        try:
            with own_code() as own:
                seconds = timed(lambda: self._take(way), self._device)
        except torch.OutOfMemoryError:
            self._optimizer.zero_grad(set_to_none=True)
            return {"seconds": None}
        peak = peak_bytes(self._device) - self._before
        return {"seconds": seconds, "peak_bytes": peak, "own_seconds": sum(own) if self._device == "cpu" else None}

    def _take(self, way: Way) -> None:
        import torch

        objective = self._objectives[way]
        eager = way[0] == "eager"
        batch = self._rows[way][self._slot].to(self._device)  # read and moved in the step, by no worker
        parts = self._eager_parts(objective, batch) if eager else objective.replay_loss(self._model, batch)
        torch.stack(list(parts.values())).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _built_maps(self, shape: Shape) -> dict[int, Any]:
        """The teacher's maps of the chosen heads in bfloat16, [samples, heads, length, length], as the released code
        keeps them."""
        import torch

        model = shape.model(1).eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            inputs = next(iter(self._rows.values()))[self._slot].to(shape.device).inputs
            maps = model(**inputs, use_cache=False, output_attentions=True).attentions
        return {layer: maps[layer][:, list(chosen)].to(torch.bfloat16) for layer, chosen in self._heads.items()}

    def _eager_parts(self, objective: LogitReplay, batch: MicroBatch) -> dict[str, Any]:
        import torch

        output = self._model(**batch.inputs, use_cache=False, output_attentions=True)
        parts = objective.logit_parts(output.logits[objective.asked(batch.labels)], batch)
        losses = []
        for layer, kept in self._maps.items():
            teacher, student = kept.float(), output.attentions[layer][:, list(self._heads[layer])]
            losses.append((teacher * ((teacher + 1e-8).log() - (student + 1e-8).log())).sum(dim=-1).mean())
        return dict(parts) | {"attention": 1000 * torch.stack(losses).mean()}


def _serve(folder: Path, shape: Shape, way: Way) -> None:
    """A process of its own, whose high-water mark is that of one way: one line of JSON when ready, then one a step."""
    steps = Steps(folder, shape, [way])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(steps.step(way)), flush=True)


if __name__ == "__main__":
    where, fields, way = sys.argv[1:]
    name, budget = json.loads(way)
    _serve(Path(where), Shape(**json.loads(fields)), (name, budget))
