"""Sensitivity and change by sums over blocks against their definitions; what they need grows with the length only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_divergence import moved, random_call
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seekr.attention import change, sensitivity
from seekr.attention.change import measure_change
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.divergence import SampleTeacher, attention_divergence
from seekr.attention.rows import QueryKeyRows
from seekr.attention.sensitivity import measure_sensitivity, normalize_layers, squared_norm, unnormalized_sensitivity
from seekr.attention.tap import Geometry, Tap
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs


@pytest.mark.parametrize("length", [1, 2, 63, 111, 127, 128, 129, 257])
@pytest.mark.parametrize("window", [None, 1, 50, 300])
@pytest.mark.parametrize("entries", ["visible", "all"])
def test_squared_norm_by_definition(length: int, window: int | None, entries: str) -> None:
    outputs, values = torch.randn(6, length, 8), torch.randn(2, length, 8)
    gradient = outputs.double() @ values.double().repeat_interleave(3, 0).transpose(1, 2)
    if entries == "visible":
        gradient = gradient * by_definition.visible(length, window)
    found = squared_norm(outputs, values, window, entries)
    assert by_definition.relative_error(found, gradient.square().sum((1, 2))) < 1e-5


@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize("window", [None, 5])
def test_squared_norm_over_small_blocks(key_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "_BLOCK", 3)
    outputs, values = torch.randn(4, 23, 8), torch.randn(key_heads, 23, 8)
    gradient = outputs @ values.repeat_interleave(4 // key_heads, 0).transpose(1, 2) * by_definition.visible(23, window)
    found = squared_norm(outputs, values, window)
    assert by_definition.relative_error(found, gradient.square().sum((1, 2))) < 1e-5


def test_squared_norm_has_a_root_where_rounding_is_all_there_is() -> None:
    """Output gradients at right angles to all values: the exact sum is 0."""
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    values = torch.randn(1, 300, 4) @ basis[:4] * 100
    outputs = torch.randn(1, 300, 4) @ basis[4:]
    for entries in ("visible", "all"):
        assert squared_norm(outputs, values, None, entries).sqrt().isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights(dtype: torch.dtype) -> None:
    model = by_definition.tiny_llama().to(dtype)
    other = by_definition.moved(model, 0.5)
    batch = by_definition.make_batch((23, 18), side="left")
    wide, wide_other = model.float(), other.float()
    expected = measure_sensitivity(wide, batch), measure_change(wide_other, wide, batch)
    model, other = model.to(dtype), other.to(dtype)
    found = measure_sensitivity(model, batch), measure_change(other, model, batch)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert by_definition.relative_error(one, two) < (0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_do_not_count(side: str) -> None:
    """A batch gives the mean over its samples each alone; labels on padding and on a first token are no answers."""
    model = by_definition.tiny_llama()
    other = by_definition.moved(model)
    lengths = (9, 5, 7)
    batch = by_definition.make_batch(lengths, side=side)
    alone = []
    for row, span in enumerate(by_definition.spans_of(lengths, side)):
        alone.append({name: tensor[row : row + 1, span] for name, tensor in batch.items()})
        batch["labels"][row, span.start] = 5
    batch["labels"][batch["attention_mask"] == 0] = 7
    expected = torch.stack([unnormalized_sensitivity(model, one) for one in alone]).mean(0)
    assert by_definition.relative_error(unnormalized_sensitivity(model, batch), expected) < 1e-5
    expected = torch.stack([measure_change(other, model, one) for one in alone]).mean(0)
    assert by_definition.relative_error(measure_change(other, model, batch), expected) < 1e-5


def test_frozen_and_adapted_models_are_measured_alike() -> None:
    model = by_definition.tiny_llama()
    batch = by_definition.make_batch((11, 8))
    expected = measure_sensitivity(model, batch)
    assert torch.allclose(expected.sum(1), torch.ones(3))
    with torch.no_grad():
        assert torch.equal(measure_sensitivity(model, batch), expected)
    model.requires_grad_(False)
    assert torch.equal(measure_sensitivity(model, batch), expected)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    assert torch.equal(measure_sensitivity(adapted, batch), expected)
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "lora" not in name)
    assert not measure_change(model, adapted, batch).any()


def test_checkpointed_model_is_measured_alike() -> None:
    model = by_definition.tiny_llama()
    batch = by_definition.make_batch((11, 8))
    expected = measure_sensitivity(model, batch)
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.equal(measure_sensitivity(model, batch), expected)


def test_change_under_autocast_is_that_of_the_tensors_that_passed() -> None:
    """The forward may run in bfloat16; what is made of its queries and keys is float32."""
    model = by_definition.tiny_llama()
    other = by_definition.moved(model)
    batch = by_definition.make_batch((40,))
    maps = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure_change(other, model, batch)
        for one in (other, model):
            with torch.no_grad(), Tap(one) as tap:
                one(**model_inputs(batch))
            calls = [tap.calls[layer] for layer in range(3)]
            maps.append(
                [
                    by_definition.log_rows(
                        call.query[0], call.key[0].repeat_interleave(2, 0), torch.arange(40), scaling=8**-0.5
                    ).exp()[None]
                    for call in calls
                ]
            )
    assert by_definition.relative_error(found, measure_change(other, model, batch)) > 1e-3
    expected = by_definition.change(maps[0], maps[1], [slice(0, 40)], "frobenius")
    assert by_definition.relative_error(found, expected) < 1e-5


def test_change_over_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = by_definition.tiny_llama()
    other = by_definition.moved(model)
    batch = by_definition.make_batch((41, 17), side="left")
    whole = measure_change(other, model, batch)
    monkeypatch.setattr(change, "block_size", lambda *_: 5)
    assert by_definition.relative_error(measure_change(other, model, batch), whole) < 1e-5


def test_layers_on_which_nothing_depends_stay_zero() -> None:
    table = normalize_layers(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert table.tolist() == [[0.25, 0.75], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda m, b: measure_sensitivity(m, b, entries="seen"), "entries='seen' is not known; use one of 'visible'"),
        (lambda m, b: measure_sensitivity(m, b, norm="l1"), "norm='l1' is not known"),
        (lambda m, b: measure_change(m, m, b, norm="l1"), "norm='l1' is not known"),
        (lambda m, b: measure_sensitivity(m, b | {"labels": b["labels"] * 0 - 100}), "sample 0 .* no answer token"),
        (lambda m, b: measure_change(by_definition.tiny_llama(num_hidden_layers=1), m, b), r"\(1, 4\), after has"),
    ],
)
def test_what_cannot_be_measured(measure: Callable[[nn.Module, dict[str, Tensor]], Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure(by_definition.tiny_llama(), by_definition.make_batch((6, 4)))


class Made(TorchDispatchMode):
    """Knows every storage that any operation makes, and holds none."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.storages.add(leaf.untyped_storage())
        return result


@pytest.mark.parametrize("trained", ["everything", "nothing", "checkpointed"])
def test_a_measure_leaves_nothing_behind_but_its_numbers(trained: str) -> None:
    """Sensitivity kept the queries, keys, values and outputs of all layers, and their graph, for the rest of a run."""
    model = by_definition.tiny_llama()
    other = by_definition.moved(model)
    batch = by_definition.make_batch((11, 8))
    model.requires_grad_(trained != "nothing")
    if trained == "checkpointed":
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with Made() as made:
        found = measure_sensitivity(model, batch), measure_change(other, model, batch)
    held = [*found, *batch.values(), *(t for one in (model, other) for t in (*one.parameters(), *one.buffers()))]
    assert set(made.storages) <= {tensor.untyped_storage() for tensor in held}


class Largest(TorchDispatchMode):
    """Keeps the number of entries of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = (leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.entries = max(self.entries, *made, 0)
        return result


def largest_of_divergence(length: int, window: int | None) -> tuple[int, int]:
    student = random_call((length,), geometry=Geometry(0.4, window))
    heads = torch.arange(4)
    teacher = QueryKeyRows.of_call(moved(student), 0, (0, length), heads)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = attention_divergence(student, [SampleTeacher(0, (0, length), heads, None, teacher)])
        value.sum().backward()
    return largest.entries, sum(kept)


def largest_of_norms(length: int, window: int | None) -> tuple[int, int]:
    outputs, values = torch.randn(4, length, 8), torch.randn(2, length, 8)
    with Largest() as largest:
        squared_norm(outputs, values, window)
    return largest.entries, 0


@pytest.mark.parametrize("measure", [largest_of_divergence, largest_of_norms])
@pytest.mark.parametrize("window", [None, 512])
def test_nothing_grows_with_the_square_of_the_length(
    measure: Callable[[int, int | None], tuple[int, int]], window: int | None
) -> None:
    (short, short_kept), (long, long_kept) = measure(1024, window), measure(2048, window)
    assert long <= 2048**2 / 8
    assert long <= 2 * short
    assert long_kept <= 2 * short_kept


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1}])
def test_drift_is_the_attention_loss_of_each_head(side: str, changes: dict[str, Any]) -> None:
    before = by_definition.tiny_llama(**changes).eval()
    after = by_definition.moved(before, 0.3).eval()
    batch = by_definition.make_batch([7, 1, 12], side=side)
    found = change.measure_change_and_drift(before, after, batch)[1]
    maps = [by_definition.eager_maps(by_definition.eager(model), batch) for model in (before, after)]
    spans = by_definition.spans_of([7, 1, 12], side)
    for layer, (old, new) in enumerate(zip(*maps, strict=True)):
        for head in range(old.shape[1]):
            rows = [
                by_definition.divergence(old[i, head, span, span], new[i, head, span, span]).mean()
                for i, span in enumerate(spans)
            ]
            assert float(found[layer, head]) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-4, abs=1e-7)
            one = attention_distillation_loss(after, before, batch, {layer: torch.tensor([head])})
            assert float(found[layer, head]) == pytest.approx(float(one), rel=1e-4, abs=1e-7)
    assert float(change.measure_change_and_drift(after, after, batch)[1].abs().max()) < 1e-7
