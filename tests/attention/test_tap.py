"""Reading a model leaves it as it was, whatever it is wrapped in, and whatever happens meanwhile."""

from __future__ import annotations

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from seekr.attention.change import measure_change
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.rows import QueryKeyRows
from seekr.attention.sensitivity import measure_sensitivity
from seekr.attention.tap import AttentionCall, Geometry, Tap, layers_and_heads
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs, sample_spans

HEADS = {0: torch.tensor([1, 2]), 2: torch.tensor([0, 3])}


def loss_and_gradients(student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    loss = attention_distillation_loss(student, teacher, batch, HEADS)
    return [loss.detach(), *by_definition.gradients(student, loss).values()]


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    student = by_definition.tiny_llama().train()
    teacher = by_definition.moved(student)
    batch = by_definition.make_batch((13, 9), side="left")
    plain = loss_and_gradients(student, teacher, batch)
    student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for one, two in zip(loss_and_gradients(student, teacher, batch), plain, strict=True):
        assert torch.equal(one, two)


def test_recomputation_is_not_recorded() -> None:
    model = by_definition.tiny_llama().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with Tap(model) as tap:
        logits = model(**model_inputs(by_definition.make_batch((7,)))).logits
        first = dict(tap.calls)
        logits.sum().backward()
    assert all(tap.calls[layer] is call for layer, call in first.items())


def test_reentrant_checkpointing_is_refused() -> None:
    student = by_definition.tiny_llama().train()
    student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    teacher = by_definition.moved(student).eval()
    batch = by_definition.make_batch((13, 9))
    with pytest.raises(InputError, match="use_reentrant"):
        attention_distillation_loss(student, teacher, batch, HEADS)


def test_lora_model_against_eager() -> None:
    base = by_definition.tiny_llama()
    teacher = by_definition.moved(base, 0.3)
    batch = by_definition.make_batch((12, 7))
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False)).eval()
    loss = attention_distillation_loss(adapted, teacher, batch, HEADS)
    eager_teacher, eager_student = by_definition.eager(teacher), by_definition.eager(adapted.get_base_model())
    expected = by_definition.distillation_loss(
        by_definition.eager_maps(eager_student, batch),
        [each.detach() for each in by_definition.eager_maps(eager_teacher, batch)],
        by_definition.spans_of((12, 7), "right"),
        {layer: kept.tolist() for layer, kept in HEADS.items()},
    )
    found = {
        name.removeprefix("base_model.model."): g for name, g in by_definition.gradients(adapted, loss).items()
    }  # fmt: skip
    assert len(found) == 2 * 2 * 3
    assert by_definition.relative_error(loss.detach(), expected.detach()) < 1e-5
    assert by_definition.gradient_error(found, by_definition.gradients(eager_student, expected)) < 1e-5


def test_two_models_that_share_one_configuration() -> None:
    one = by_definition.tiny_llama()
    two = by_definition.sharpened(LlamaForCausalLM(one.config))
    assert one.config is two.config
    batch = by_definition.make_batch((9,))
    inputs = model_inputs(batch)
    with torch.no_grad():
        plain = two(**inputs).logits
        with Tap(one) as tap:
            assert torch.equal(two(**inputs).logits, plain)
            assert not tap.calls
            one(**inputs)
        assert sorted(tap.calls) == [0, 1, 2]
    separate = by_definition.eager(two)
    separate.set_attn_implementation("sdpa")
    shared_loss = attention_distillation_loss(one, two, batch, HEADS)
    assert torch.equal(shared_loss, attention_distillation_loss(one, separate, batch, HEADS))


def test_tap_is_taken_off_after_an_exception() -> None:
    model = by_definition.tiny_llama()
    with Tap(model):
        assert model.config._attn_implementation != "sdpa"
    with pytest.raises(TypeError), Tap(model):
        model(input_ids="no tensor")
    assert model.config._attn_implementation == "sdpa"
    measure_sensitivity(model, by_definition.make_batch((5,)))


def test_a_model_cannot_be_read_twice_at_once() -> None:
    model = by_definition.tiny_llama()
    with Tap(model), pytest.raises(RuntimeError, match="another tap"), Tap(model):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_only_the_asked_layers_are_kept() -> None:
    model = by_definition.tiny_llama()
    with torch.no_grad(), Tap(model, [1]) as tap:
        model(**model_inputs(by_definition.make_batch((5,))))
    assert list(tap.calls) == [1]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_implementation_in_use_is_delegated_to(implementation: str) -> None:
    model = by_definition.tiny_llama()
    model.set_attn_implementation(implementation)
    inputs = model_inputs(by_definition.make_batch((9, 6), side="left"))
    with torch.no_grad():
        plain = model(**inputs).logits
        with Tap(model) as tap:
            assert torch.equal(model(**inputs).logits, plain)
    mask = tap.calls[0].mask
    assert isinstance(mask, Tensor)
    assert (mask.dtype == torch.bool) == (implementation == "sdpa")


def test_measuring_leaves_weights_gradients_mode_and_random_state() -> None:
    model = by_definition.tiny_llama(attention_dropout=0.5)
    other = by_definition.moved(model)
    batch = by_definition.make_batch((9, 6))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measure_sensitivity(model, batch)
    measure_change(other, model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_spans_of_samples() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    assert sample_spans(mask) == sample_spans(mask.bool()) == [(2, 4), (0, 3), (0, 4)]
    for broken in ([[0, 0, 0]], [[1, 0, 1]]):
        with pytest.raises(InputError, match="sample 0 must be one run of ones"):
            sample_spans(torch.tensor(broken))


def test_a_model_without_heads_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(InputError, match="mamba has no attention heads"):
        layers_and_heads(MambaForCausalLM(config))


def test_rows_lie_where_the_call_does_wherever_the_queries_were_drawn() -> None:
    """Queries are drawn on the CPU: remembering failed on a GPU. Meta tensors stand in for one."""
    query, key = torch.empty(1, 4, 7, 8, device="meta"), torch.empty(1, 2, 7, 8, device="meta")
    call = AttentionCall(query, key, key, query, Geometry(1.0), None, None)
    rows = QueryKeyRows.of_call(call, 0, (0, 7), torch.tensor([0, 3]), torch.tensor([2, 5]))
    assert {tensor.device.type for tensor in (rows.query, rows.key, rows.key_of_head, rows.positions)} == {"meta"}
    assert rows.query.shape == (2, 2, 8)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_under_autocast_queries_and_keys_are_those_that_attention_takes(implementation: str) -> None:
    """Rotary embedding leaves them in float32, in which kernels would run without tensor cores."""
    model = by_definition.tiny_llama()
    model.set_attn_implementation(implementation)
    batch = model_inputs(by_definition.make_batch((9, 5)))
    with torch.autocast("cpu", dtype=torch.bfloat16), Tap(model) as tap:
        found = model(**batch, use_cache=False).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(**batch, use_cache=False).logits
    assert torch.equal(found, expected)
    for call in tap.calls.values():
        assert call.query.dtype == call.key.dtype == torch.bfloat16
        assert all(tensor.requires_grad for tensor in (call.query, call.key))
