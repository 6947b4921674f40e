"""The weight of the attention loss that follows the model, so that no number has to be chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.7  # of the gradient norm; chosen on eval rows: docs/choosing-settings.md
ROWS_A_MEASURE = 64
_KEPT = 0.8
_STEP = math.log(10.0)
_COST = 20.0  # nats
_LARGEST = 1e5
_FAR = 20.0  # times


@dataclass
class FollowedWeight:
    """The weight with which the attention loss has `SHARE` of the gradient norm of a replay step.

    λ = s / (1 − s) · ‖gradient of all other losses‖ / ‖gradient of the unweighted attention loss‖, measured on one row
    of every `ROWS_A_MEASURE` replayed ones, and smoothed over these in logarithms, each of which counts as a factor of
    ten at most. It is a function of what the log says, from which it is taken again when a run goes on.

    Attributes:
        value: the weight of the next replay step.
        steps: replay steps of the task so far.
    """

    value: float = 1.0
    steps: int = 0

    def is_due(self, rows: int) -> bool:
        """Whether the next replay step, of so many rows, is one in which a row is measured; the first one is."""
        return self.steps * rows % ROWS_A_MEASURE < rows

    def take(self, share: float | None) -> None:
        """Counts a replay step, in which the attention loss had this share; None = it was not measured."""
        self.steps += 1
        if share is None or not 0 < share < 1:
            return
        change = math.log(SHARE / (1 - SHARE) * (1 - share) / share)
        change = min(max(change, -_STEP), _STEP)
        self.value = min(self.value * math.exp((1 - _KEPT) * change), _LARGEST)

    def take_all(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """The same for the replay steps among lines of a log, in their order."""
        for line in lines:
            if line["kind"] == "replay":
                self.take(line.get("attention_share"))


def mean_drift(tasks: Iterable[tuple[Any, Mapping[int, Sequence[int] | Tensor]]]) -> float | None:
    """How far the chosen heads' maps drifted while each of some tasks was learned, on its own kept rows, in nats.

    Nothing held the maps on these rows, so it is the drift that the next task would cause where nothing is distilled.

    Args:
        tasks: `measure_drift`'s table [layers, heads] of each task, zeros where nothing was trained, and its heads.

    Returns:
        The mean over tasks of the mean over layers of the mean over heads, as the attention loss takes it; None where
        no task was trained.
    """
    found = []
    for table, heads in tasks:
        layers = [
            float(sum(float(table[layer][int(head)]) for head in kept) / len(kept)) for layer, kept in heads.items()
        ]
        if layers and any(layers):
            found.append(sum(layers) / len(layers))
    return sum(found) / len(found) if found else None


def weight_of_drift(drift: float | None) -> float:
    """The weight with which maps that drift freely would cost 20 nats: λ = 20 / drift.

    A small model that learns fast has a drift near one nat and a weight near 20; a large one at a small rate, whose
    maps hardly move, has the larger weight that it takes to hold them. Before any drift is known it counts as one nat.
    """
    return min(_COST / drift, _LARGEST) if drift else _COST


def weight_advice(setting: Any, drift: float | None) -> str | None:
    """What to say of a fixed weight that is far from the automatic one; None = nothing, as where it is "auto"."""
    if setting in ("auto", None, 0) or drift is None:
        return None
    wanted = weight_of_drift(drift)
    ratio = float(setting) / wanted
    if 1 / _FAR <= ratio <= _FAR:
        return None
    how, effect = ("large", "new tasks may hardly be learned") if ratio > 1 else ("small", "it may do nothing")
    return (
        f"attention_weight {float(setting):g} is {max(ratio, 1 / ratio):.0f} times too {how} for attention that drifts "
        f"by {drift:.2g} nats: {effect}; set method.attention_weight to auto, or to about {wanted:.2g}"
    )
