"""Importance over tasks, budgets, and the choice of heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seekr.attention.heads import head_importance, resolve_budgets, select_heads
from seekr.errors import InputError


def as_lists(chosen: dict[int, torch.Tensor]) -> dict[int, list[int]]:
    return {layer: heads.tolist() for layer, heads in chosen.items()}


def test_layers_first_and_then_heads_over_all_of_them() -> None:
    importance = torch.tensor([[9.0, 0.0, 0.0], [4.0, 4.0, 4.0], [5.0, 6.0, 0.0]])
    # Layer 0 has the largest head of all, and yet the smallest sum.
    assert as_lists(select_heads(importance, layer_budget=2, head_budget=3)) == {1: [0], 2: [0, 1]}
    assert as_lists(select_heads(importance, layer_budget=3, head_budget=1)) == {0: [0]}
    assert as_lists(select_heads(importance, layer_budget=2, head_budget=6)) == {1: [0, 1, 2], 2: [0, 1, 2]}


def test_ties_go_to_the_smaller_layer_and_head() -> None:
    assert as_lists(select_heads(torch.ones(5, 4), layer_budget=2, head_budget=6)) == {0: [0, 1, 2, 3], 1: [0, 1]}
    importance = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert as_lists(select_heads(importance, layer_budget=3, head_budget=2)) == {0: [1], 1: [0]}


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_budgets_are_filled_with_the_largest(layers: int, heads: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 5), min_size=layers * heads, max_size=layers * heads))
    importance = torch.tensor(values, dtype=torch.float32).reshape(layers, heads)
    layer_budget = data.draw(st.integers(1, layers))
    head_budget = data.draw(st.integers(1, layer_budget * heads))
    chosen = as_lists(select_heads(importance, layer_budget=layer_budget, head_budget=head_budget))
    picked = [(layer, head) for layer, kept in chosen.items() for head in kept]
    assert len(set(picked)) == head_budget
    by_sum = sorted(range(layers), key=lambda layer: (-importance[layer].sum().item(), layer))[:layer_budget]
    candidates = [(layer, head) for layer in sorted(by_sum) for head in range(heads)]
    best = sorted(candidates, key=lambda place: (-importance[place].item(), place))[:head_budget]
    assert sorted(picked) == sorted(best)


@pytest.mark.parametrize("budgets", [(0, 1), (4, 1), (1, 0), (1, 5), (3, 13)])
def test_budgets_that_the_model_cannot_fill(budgets: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"budget=.*or null"):
        select_heads(torch.ones(3, 4), layer_budget=budgets[0], head_budget=budgets[1])
    with pytest.raises(InputError, match="budget="):
        resolve_budgets(3, 4, *budgets)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_importance_must_be_finite(bad: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        select_heads(torch.tensor([[1.0, bad]]), layer_budget=1, head_budget=1)


def test_budgets_left_open_are_the_papers_share() -> None:
    assert resolve_budgets(32, 32, None, None) == (24, 128)
    assert resolve_budgets(1, 1, None, None) == (1, 1)
    assert resolve_budgets(6, 8, None, None) == (5, 6)
    assert resolve_budgets(40, 4, 1, None) == (1, 4)  # ⅛ of all heads would not fit in one layer


def test_importance_of_two_tasks_in_both_forms() -> None:
    sensitivity = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])]
    change = [torch.tensor([[7.0, 1.0]]), torch.tensor([[2.0, 4.0]])]
    assert head_importance(sensitivity, change).tolist() == [[4 * 9, 7 * 5]]
    found = head_importance(sensitivity, change, form="sum_of_products")
    assert found.tolist() == [[7 + 6, 2 + 20]]


@pytest.mark.parametrize("form", ["product_of_sums", "sum_of_products"])
def test_where_nothing_moved_sensitivity_decides(form: str) -> None:
    sensitivity = [torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 1.0]])]
    still = [torch.zeros(1, 2)] * 2
    assert head_importance(sensitivity, still, form=form).tolist() == [[5, 3]]  # type: ignore[arg-type]


def test_the_ablations_of_importance() -> None:
    sensitivities, changes = [torch.rand(3, 4), torch.rand(3, 4)], [torch.zeros(3, 4), torch.rand(3, 4)]
    assert torch.equal(head_importance(sensitivities, changes, form="sensitivity"), sum(sensitivities))
    assert torch.equal(head_importance(sensitivities, changes, form="change"), changes[1])
    drawn = [head_importance(sensitivities, changes, form="random", seed=(0, task, 3)) for task in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert drawn[0].shape == (3, 4)
    nothing = head_importance(sensitivities, [torch.zeros(3, 4)] * 2, form="random")
    assert not torch.equal(nothing, sum(sensitivities))  # random stays random where nothing moved


def test_random_heads_are_spread_evenly() -> None:
    counts = torch.zeros(4, 8)
    for task in range(400):
        importance = head_importance([torch.ones(4, 8)], [torch.ones(4, 8)], form="random", seed=(0, task, 3))
        for layer, heads in select_heads(importance, layer_budget=3, head_budget=4).items():
            counts[layer, heads] += 1
    assert float(counts.sum()) == 1600
    assert float((counts - 50).abs().max()) < 30  # 4.2 standard deviations


def test_all_layers_and_heads_as_budgets() -> None:
    assert resolve_budgets(4, 8, "all", "all") == (4, 32)
    assert resolve_budgets(4, 8, None, "all") == (3, 24)
    assert resolve_budgets(4, 8, "all", None) == (4, 4)
    assert resolve_budgets(4, 8, 2, "all") == (2, 16)
