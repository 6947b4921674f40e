"""The weight that follows from the drift of attention: its rule, and what a run makes of it."""

from __future__ import annotations

import pytest
import torch

from seekr.attention.weight import automatic_weight, mean_drift, weight_advice


def test_drift_is_the_mean_over_tasks_layers_and_heads() -> None:
    tables = torch.tensor([[1.0, 3.0], [10.0, 20.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    first, second = (tables[0], {0: torch.tensor([0, 1]), 1: torch.tensor([1])}), (tables[1], {0: [0]})
    assert mean_drift([first]) == (2 + 20) / 2
    assert mean_drift([first, second]) == (11 + 5) / 2
    skill = torch.zeros(2, 2), {0: [0, 1]}
    assert mean_drift([skill, first]) == 11  # nothing was trained, so nothing could drift
    assert mean_drift([skill]) is None
    assert mean_drift([]) is None


def test_maps_that_drift_freely_cost_the_same_whatever_the_model() -> None:
    costs = [automatic_weight(drift) * drift for drift in (0.015, 0.04, 1.0, 7.0)]
    assert costs == pytest.approx([costs[0]] * 4)
    assert automatic_weight(None) == automatic_weight(1.0)


def test_after_a_task_that_hardly_moved_any_map_the_weight_stays_at_the_papers() -> None:
    """LoRA on a model of 135M for twelve weak steps: 15 nats over its drift is 21,900, a gradient of 44 beside 2.4."""
    assert automatic_weight(15 / 21_900) == automatic_weight(1e-12) == 1000


@pytest.mark.parametrize(
    ("setting", "drift", "said"),
    [
        ("auto", 1.0, None),
        (0, 1.0, None),
        (None, 1.0, None),
        (1000.0, None, None),
        (15.0, 1.0, None),
        (299.0, 1.0, None),
        (1000.0, 1.0, "67 times too large"),
        (1.0, 0.1, "150 times too small"),
        (1000.0, 0.02, None),
    ],
)
def test_a_weight_far_from_the_automatic_one_is_spoken_of(setting: object, drift: float, said: str | None) -> None:
    advice = weight_advice(setting, drift)
    assert (advice is None) == (said is None)
    if advice is not None and said is not None:
        assert said in advice
        assert "set method.attention_weight to auto" in advice
