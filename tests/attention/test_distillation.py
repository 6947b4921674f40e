"""Which samples, layers, heads and queries the attention loss counts, and how heavily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from torch import Tensor, nn

from seekr.attention.distillation import attention_distillation_loss, weighted_attention_divergence
from seekr.attention.rows import MapRows, QueryKeyRows
from seekr.attention.tap import Tap
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs, sample_spans

LENGTHS = (12, 7, 9)
HEADS = {0: [2], 1: [0, 1, 3], 2: [0, 1, 2, 3]}


class Kept:
    """The exact teacher of one sample, in memory."""

    def __init__(self, model: nn.Module, batch: dict[str, Tensor], row: int, heads: Any, positions: Any = None) -> None:
        with torch.no_grad(), Tap(model) as tap:
            model(**model_inputs(batch))
        self.heads = {layer: torch.tensor(kept) for layer, kept in heads.items()}
        self.positions = None if positions is None else torch.tensor(positions)
        span = sample_spans(batch["attention_mask"])[row]
        self.teachers = {
            layer: QueryKeyRows.of_call(tap.calls[layer], row, span, kept, self.positions)
            for layer, kept in self.heads.items()
        }

    def heads_on(self, layer: int, device: torch.device) -> Tensor:
        return self.heads[layer]

    def rows(self, layer: int, device: torch.device) -> MapRows:
        return self.teachers[layer]


def models() -> tuple[nn.Module, nn.Module]:
    student = by_definition.tiny_llama()
    return student, by_definition.moved(student, 0.3)


def expected_loss(
    student: nn.Module, teacher: nn.Module, batch: Any, side: str, queries: list[list[int]] | None
) -> float:
    with torch.no_grad():
        maps = [by_definition.eager_maps(by_definition.eager(one), batch) for one in (student, teacher)]
    spans = by_definition.spans_of(LENGTHS, side)
    return float(by_definition.distillation_loss(maps[0], maps[1], spans, HEADS, queries))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "queries",
    [None, [[6, 0, 3], [5, 1, 2], [4, 6, 0]], [[6, 6, 0], [1, 1, 1], [0, 5, 5]], [[0], [0], [0]], [[6], [6], [6]]],
    ids=str,
)
def test_live_and_kept_teachers_agree_with_the_definition(side: str, queries: list[list[int]] | None) -> None:
    student, teacher = models()
    batch = by_definition.make_batch(LENGTHS, side=side)
    heads = {layer: torch.tensor(kept) for layer, kept in HEADS.items()}
    asked = None if queries is None else torch.tensor(queries)
    expected = expected_loss(student, teacher, batch, side, queries)
    live = attention_distillation_loss(student, teacher, batch, heads, queries=asked)
    kept = [
        Kept(teacher, batch, row, HEADS, None if queries is None else sorted(queries[row]))
        for row in range(len(LENGTHS))
    ]
    stored = attention_distillation_loss(student, kept, batch, heads)
    assert float(live.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert float(stored.detach()) == float(live.detach())
    assert attention_distillation_loss(student, kept, batch, heads, queries=asked).item() == stored.item()


def test_every_query_once_is_all_of_them_and_order_is_free() -> None:
    student, teacher = models()
    batch = by_definition.make_batch((9, 9))
    heads = {1: torch.tensor([0, 3])}
    every = attention_distillation_loss(student, teacher, batch, heads)
    queries = torch.stack([torch.randperm(9), torch.arange(9)])
    assert torch.allclose(attention_distillation_loss(student, teacher, batch, heads, queries=queries), every)
    shuffled = attention_distillation_loss(student, teacher, batch, {1: [3, 0]})  # type: ignore[dict-item]
    assert torch.equal(shuffled, every)


def test_samples_with_heads_of_their_own_are_weighed_one_by_one() -> None:
    student, teacher = models()
    batch = by_definition.make_batch(LENGTHS, side="left")
    heads_of = [{0: [2]}, {0: [1, 3], 2: [0]}, {1: [0, 1, 2]}]
    kept = {row: Kept(teacher, batch, row, heads) for row, heads in enumerate(heads_of)}
    weights = {(0, 0): 0.5, (1, 0): 2.0, (1, 2): 0.25}  # the third sample is not counted
    with Tap(student) as tap:
        student(**model_inputs(batch))
    found = weighted_attention_divergence(tap.calls, kept, sample_spans(batch["attention_mask"]), weights)
    expected = 0.0
    for (row, layer), weight in weights.items():
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        chosen = {layer: torch.tensor(heads_of[row][layer])}
        expected += weight * float(attention_distillation_loss(student, teacher, one, chosen).detach())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    gradients = by_definition.gradients(student, found)
    assert gradients["model.layers.2.self_attn.q_proj.weight"].any()


def test_nothing_to_weigh_is_zero() -> None:
    student, teacher = models()
    batch = by_definition.make_batch((5,))
    with Tap(student) as tap:
        student(**model_inputs(batch))
    kept = {0: Kept(teacher, batch, 0, {0: [1]})}
    assert weighted_attention_divergence(tap.calls, kept, [(0, 5)], {}).item() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"heads": {}}, "heads is empty"),
        ({"heads": {3: [0]}}, r"layers 0\.\.2, heads 0\.\.3"),
        ({"heads": {0: [4]}}, r"heads \{0: \[4\]\}: name distinct ones"),
        ({"heads": {0: [-1]}}, "name distinct ones"),
        ({"heads": {0: []}}, "name distinct ones"),
        ({"heads": {0: [1, 1]}}, "name distinct ones"),
        ({"queries": [[0, 12], [0, 0], [0, 0]]}, r"queries of sample 0 must lie in 0\.\.11"),
        ({"queries": [[0], [7], [0]]}, r"queries of sample 1 must lie in 0\.\.6"),
        ({"queries": [[0], [-1], [0]]}, "queries of sample 1"),
        ({"queries": [[0]]}, r"queries must be \[samples, q\] for 3 samples"),
        ({"queries": [[], [], []]}, r"queries must be \[samples, q\]"),
    ],
)
def test_bad_heads_and_queries(arguments: dict[str, Any], said: str) -> None:
    student, teacher = models()
    heads = {layer: torch.tensor(kept) for layer, kept in arguments.get("heads", HEADS).items()}
    queries = torch.tensor(arguments["queries"]) if "queries" in arguments else None
    with pytest.raises(InputError, match=said):
        attention_distillation_loss(student, teacher, by_definition.make_batch(LENGTHS), heads, queries=queries)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s, kept, b: attention_distillation_loss(s, kept[:2], b, {0: torch.tensor([2])}), "2 stored samples"),
        (
            lambda s, kept, b: attention_distillation_loss(s, kept, b, {1: torch.tensor([2])}),
            "the memory keeps nothing",
        ),
        (lambda s, kept, b: attention_distillation_loss(s, kept, b, {0: torch.tensor([1])}), r"keeps heads \[2\]"),
        (
            lambda s, kept, b: attention_distillation_loss(
                s, kept, b, {0: torch.tensor([2])}, queries=torch.zeros(3, 1, dtype=torch.long)
            ),
            "queries of sample 0 are not those",
        ),
    ],
)
def test_what_a_memory_does_not_keep(ask: Callable[..., Tensor], said: str) -> None:
    student, teacher = models()
    batch = by_definition.make_batch(LENGTHS)
    kept = [Kept(teacher, batch, row, {0: [2]}) for row in range(3)]
    with pytest.raises(InputError, match=said):
        ask(student, kept, batch)
