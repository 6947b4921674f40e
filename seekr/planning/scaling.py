"""Deep models from shallow ones: what a step holds grows by the same bytes with every layer that is like the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from seekr.methods import AGem
from seekr.planning.kept import chosen_heads, keeps_attention
from seekr.planning.live import GRADIENTS
from seekr.planning.moments import BETWEEN, Windows, measure_heads, replay_step, task_step
from seekr.planning.paper import BEFORE, Bytes, Paper
from seekr.planning.rows import Shape


class Steps:
    """The peaks of the steps of a run's model, however many layers it has.

    The backward takes activations away and brings gradients, layer by layer, so that a step holds most while it is in
    its last layer or in its first. Both are counted on models of a few layers, in the same operations, and grow
    linearly from there: a first layer, a last one, and one of each kind, layers being of one kind that have as many
    heads distilled. Layers whose weights differ are counted one by one.

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
        return self._peak(lambda paper, _: task_step(paper, shape, checkpointing=checkpointing))

    def replay_step(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """The same of a replay step."""
        method = self.paper.method
        heads = chosen_heads(method, self.paper.text) if keeps_attention(method) and method.attention_weight else {}
        return self._peak(lambda paper, some: replay_step(paper, shape, checkpointing=checkpointing, heads=some), heads)

    def reference_step(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """The same of A-GEM's gradient of kept rows, the step's own gradient lying beside it."""
        method = self.paper.method
        assert isinstance(method, AGem)
        more = method.reference_rows > shape.rows
        found = self._peak(lambda paper, _: replay_step(paper, shape, checkpointing=checkpointing, heads={}, more=more))
        return found | {GRADIENTS: found.get(GRADIENTS, 0) + self.paper.trained_bytes}

    def measure_heads(self, shape: Shape, *, checkpointing: bool) -> Bytes:
        """Bytes at the peak of measuring kept rows after a task, the model before the task beside the new one."""
        found = self._peak(lambda paper, _: measure_heads(paper, shape, checkpointing=checkpointing))
        return found | {BEFORE: self.paper.weights}

    def _peak(
        self, windows: Callable[[Paper, Mapping[int, int]], Windows], heads: Mapping[int, int] | None = None
    ) -> Bytes:
        kinds = [(heads or {}).get(layer, 0) for layer in range(len(self.paper.layers))]
        few = a_few(kinds)
        if len(few) + 1 >= len(kinds) or not self._alike():
            return _largest(self._at(self.paper, windows, kinds))
        base = self._some(windows, [kinds[layer] for layer in few])
        found = dict(base)
        for kind, times in (Counter(kinds) - Counter(kinds[layer] for layer in few)).items():
            another = next(layer for layer, its in enumerate(kinds) if its == kind and layer not in few)
            deeper = self._some(windows, [kinds[layer] for layer in sorted([*few, another])])
            found = {name: _grown(found[name], base[name], deeper[name], times) for name in found}
        return _largest({name: parts for name, parts in found.items() if name != BETWEEN})

    def _some(self, windows: Any, kinds: Sequence[int]) -> Windows:
        return self._at(self._make(len(kinds)), windows, kinds)

    def _at(self, paper: Paper, windows: Any, kinds: Sequence[int]) -> Windows:
        before, paper.attention = paper.attention, self.attention
        try:
            return dict(windows(paper, {layer: kind for layer, kind in enumerate(kinds) if kind}))
        finally:
            paper.attention = before

    def _alike(self) -> bool:
        kinds = {
            tuple((tuple(p.shape), p.dtype, p.requires_grad) for p in layer.parameters()) for layer in self.paper.layers
        }
        types = getattr(self.paper.text, "layer_types", None) or [None]
        trained = any(p.requires_grad for layer in self.paper.layers for p in layer.parameters())
        return len(kinds) == 1 and len(set(types)) == 1 and trained


def a_few(kinds: Sequence[int]) -> list[int]:
    """Layers, ascending, among which are the first and the last, of all and of those that distil, and every kind."""
    distilling = [layer for layer, kind in enumerate(kinds) if kind]
    few = {0, len(kinds) - 1, *distilling[:1], *distilling[-1:]}
    for layer, kind in enumerate(kinds):
        if all(kinds[other] != kind for other in few):
            few.add(layer)
    return sorted(few)


def _grown(found: Bytes, one: Bytes, other: Bytes, times: int) -> Bytes:
    """`found` and `times` the difference of `one` to `other`."""
    return {part: found.get(part, 0) + times * (other.get(part, 0) - one.get(part, 0)) for part in found | one | other}


def _largest(windows: Windows) -> Bytes:
    found = max(windows.values(), key=lambda parts: sum(parts.values()))
    return {part: count for part, count in found.items() if count}
