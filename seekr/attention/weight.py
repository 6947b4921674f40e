"""The weight of the attention loss by how far attention drifts where nothing holds it: no number has to be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_COST = 15.0  # nats; chosen on eval rows: docs/choosing-settings.md
_LARGEST = 1000.0  # the paper's, for a 7B model at rate 1e-5: the largest that is known to serve
_FAR = 20.0  # times


Drift = tuple[Any, Mapping[int, "Sequence[int] | Tensor"]]
"""`measure_drift`'s table [layers, heads] of a task, zeros where nothing was trained, and its chosen heads by layer."""


def mean_drift(tasks: Iterable[Drift]) -> float | None:
    """How far the chosen heads' maps drifted while each of some tasks was learned, on its own kept rows, in nats.

    Nothing held the maps on these rows, so it is the drift that the next task would cause where nothing is distilled.

    Returns:
        The mean over tasks of the mean over layers of the mean over heads, as the attention loss takes it; None where
        no task was trained.
    """
    return mean_known(drift_of(*task) for task in tasks)


def drift_of(table: Any, heads: Mapping[int, Sequence[int] | Tensor]) -> float | None:
    """The same of one task."""
    layers = [float(sum(float(table[layer][int(head)]) for head in kept) / len(kept)) for layer, kept in heads.items()]
    return sum(layers) / len(layers) if any(layers) else None


def mean_known(drifts: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [drift for drift in drifts if drift is not None]
    return sum(known) / len(known) if known else None


def automatic_weight(drift: float | None) -> float:
    """The weight with which maps that drift freely would cost 15 nats: λ = min(15 / drift, 1000).

    A small model that learns fast has a drift near one nat and a weight near 15; a large one at a small rate, whose
    maps hardly move, has the larger weight that it takes to hold them. Without the bound, a
    task that hardly moved them would make the attention loss of the next one drown all else. Before any drift is known
    it counts as one nat.
    """
    return min(_COST / drift, _LARGEST) if drift else _COST


def weight_advice(setting: Any, drift: float | None) -> str | None:
    """What to say of a fixed weight that is far from the automatic one; None = nothing, as where it is "auto"."""
    if setting in ("auto", None, 0) or drift is None:
        return None
    wanted = automatic_weight(drift)
    ratio = float(setting) / wanted
    if 1 / _FAR <= ratio <= _FAR:
        return None
    how, effect = ("large", "new tasks may hardly be learned") if ratio > 1 else ("small", "it may do nothing")
    return (
        f"attention_weight {float(setting):g} is {max(ratio, 1 / ratio):.0f} times too {how} for attention that drifts "
        f"by {drift:.2g} nats: {effect}; set method.attention_weight to auto, or to about {wanted:.2g}"
    )
