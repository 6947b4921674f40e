"""Deep models from shallow ones: what a step holds grows by the same bytes with every layer that is like the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from seekr.methods import Seekr
from seekr.planning.kept import chosen_heads
from seekr.planning.paper import BEFORE, BETWEEN, Bytes, Paper, Windows
from seekr.planning.rows import Shape

SHALLOW = 2
"""The layers of the smallest model that has a first and a last one."""


class Steps:
    """The peaks of the steps of a run's model, however many layers it has.

    The backward takes activations away and brings gradients, layer by layer, so that a step holds most while it is in
    its last layer or in its first. Both are counted on models of two and three layers, in the same operations, and
    grow linearly from there. Layers that differ from each other, as those whose heads are distilled do, are counted one
    by one.

    Args:
        paper: the model as it is.
        make: the same with another number of layers.
        attention: "sdpa", "eager", or another implementation, which is taken to build no map and no mask.
    """

    def __init__(self, paper: Paper, make: Callable[[int], Paper], *, attention: str | None = None) -> None:
        self.paper = paper
        self.attention = attention or paper.attention
        self._make = cache(make)

    def task_step(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """Bytes at the peak of a task step, the optimizer's state not counted."""
        return self._peak(lambda paper, _: paper.task_step(shape, checkpointing=checkpointing), {})

    def replay_step(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """The same of a replay step."""
        method = self.paper.method
        heads = chosen_heads(method, self.paper.text) if isinstance(method, Seekr) and method.attention_weight else {}
        return self._peak(
            lambda paper, some: paper.replay_step(shape, checkpointing=checkpointing, heads=some), heads
        )  # fmt: skip

    def measuring(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """Bytes at the peak of measuring kept rows after a task, the model before the task beside the new one."""
        found = self._peak(lambda paper, _: paper.measuring(shape, checkpointing=checkpointing), {})
        return found | {BEFORE: self.paper.weights}

    def _peak(self, windows: Callable[[Paper, Mapping[int, int]], Windows], heads: Mapping[int, int]) -> Bytes:
        layers = len(self.paper.layers)
        if heads or layers <= SHALLOW + 2 or not self._alike():
            return _largest(self._at(self.paper, windows, heads))
        base, deeper = (self._at(self._make(SHALLOW + n), windows, {}) for n in (0, 1))
        more = layers - SHALLOW
        return _largest({name: _grown(base[name], deeper[name], more) for name in base.keys() - {BETWEEN}})

    def _at(self, paper: Paper, windows: Any, heads: Mapping[int, int]) -> Windows:
        before, paper.attention = paper.attention, self.attention
        try:
            return dict(windows(paper, heads))
        finally:
            paper.attention = before

    def _alike(self) -> bool:
        kinds = {
            tuple((tuple(p.shape), p.dtype, p.requires_grad) for p in layer.parameters()) for layer in self.paper.layers
        }
        types = getattr(self.paper.text, "layer_types", None) or [None]
        trained = any(p.requires_grad for layer in self.paper.layers for p in layer.parameters())
        return len(kinds) == 1 and len(set(types)) == 1 and trained


def _grown(one: Bytes, other: Bytes, times: int) -> Bytes:
    """`one` and `times` its difference to `other`."""
    return {part: one.get(part, 0) + times * (other.get(part, 0) - one.get(part, 0)) for part in one | other}


def _largest(windows: Windows) -> Bytes:
    found = max(windows.values(), key=lambda parts: sum(parts.values()))
    return {part: count for part, count in found.items() if count}
