"""A weight of the attention loss that follows the gradients, so that no number has to be chosen for a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from seekr.attention.tap import AttentionCall
from seekr.processes import summed

SHARE = 0.7  # chosen on eval rows: docs/choosing-settings.md
KEPT = 0.8
BOUNDS = (1e-3, 1e4)
WIDE, LONG = (0.05, 0.85), 10  # a fixed weight is spoken of where its median share over so many steps lies outside


class Pulls:
    """How strongly the attention loss pulls at the queries and keys of the chosen heads, and all other losses together.

    Measured where both gradients meet, in the backward that trains: no pass is added. Gradients of activations add up
    over micro-batches and processes, whose rows are others, and none of them holds a part of another's, however the
    weights are spread.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._squares: list[Tensor] = []  # [2] a query or key tensor: attention, the others

    def branch(self, given: Mapping[int, tuple[Tensor, Tensor]], calls: dict[int, AttentionCall]) -> None:
        """Measures at the queries and keys of recorded `calls`, layer → call, which are changed to read a branch of
        their own; `given` has them as the model goes on with them. Gradients are taken as the backward passes.
        """
        for layer, call in calls.items():
            call.query = self._watched(given[layer][0], call.query)
            call.key = self._watched(given[layer][1], call.key)

    def shares(self) -> tuple[float, float]:
        """The norms of both pulls over the step so far, on all processes: (attention, the others). All call it."""
        squares = torch.stack([torch.zeros(2, device=self._device), *self._squares]).sum(dim=0)
        attention, others = summed(squares, self._device).sqrt().tolist()
        return attention, others

    def _watched(self, given: Tensor, read: Tensor) -> Tensor:
        if not given.requires_grad:
            return read
        read = read.view_as(read)
        held: list[Tensor] = []
        place = len(self._squares)
        self._squares.append(torch.zeros(2, device=self._device))

        def measure(total: Tensor) -> None:
            if not held:
                return
            own = held.pop().float()
            squares = torch.stack([own, total.float() - own]).square().sum(dim=(-2, -1))  # [2, samples, heads]
            # Of several backwards over one graph the last one trains.
            self._squares[place] = (squares * (squares[0] > 0)).sum(dim=(-2, -1))

        read.register_hook(held.append)
        given.register_hook(measure)
        return read


@dataclass
class FollowedWeight:
    """The weight with which the attention loss would have had `SHARE` of the pull, smoothed over replay steps.

    The geometric mean of what each step so far would have asked for, a step n steps ago with the weight 0.8ⁿ. It is a
    function of what the log says of these steps, from which it is read again when a run goes on.
    """

    logs: float = 0.0
    steps: float = 0.0

    @property
    def value(self) -> float:
        """Of the next replay step; 1 before the first."""
        return math.exp(self.logs / self.steps) if self.steps else 1.0

    def follow(self, weight: float, share: float | None) -> None:
        """Takes in that with `weight` the attention loss had this `share` of the pull; None = nothing pulled."""
        if share is None or not 0 < share < 1:
            return
        asked = weight * SHARE / (1 - SHARE) * (1 - share) / share
        self.logs = KEPT * self.logs + math.log(min(max(asked, BOUNDS[0]), BOUNDS[1]))
        self.steps = KEPT * self.steps + 1

    def follow_all(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """The same for lines of a log, in their order."""
        for line in lines:
            if line.get("attention_weight") is not None:
                self.follow(line["attention_weight"], line.get("attention_pull"))

    def carried_on(self) -> FollowedWeight:
        """What another task begins with: this weight, as one step asked for it."""
        return FollowedWeight(math.log(self.value), 1.0) if self.steps else FollowedWeight()


def weight_advice(setting: float | Any, steps: Sequence[Mapping[str, float | None]]) -> str | None:
    """What to say of a fixed weight that most of a task's replay steps found too large or too small; None = nothing.

    `setting` is the method's `attention_weight`, `steps` what the log says of each step: its `attention_weight` and
    `attention_pull`, where it has them.
    """
    pulls = [pull for step in steps if (pull := step.get("attention_pull")) is not None]
    if setting in ("auto", None, 0) or len(pulls) < LONG:
        return None
    middle = median(pulls)
    if WIDE[0] <= middle <= WIDE[1]:
        return None
    wanted = FollowedWeight()
    wanted.follow_all(steps)
    heard = "little else is heard there" if middle > WIDE[1] else "it is hardly heard there"
    return (
        f"the attention loss has {100 * middle:.2g}% of the pull at its heads (median of {len(pulls)} replay steps): "
        f"{heard}; set method.attention_weight to auto, or to about {wanted.value:.2g} in place of {setting:g}"
    )
