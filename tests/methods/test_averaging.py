"""Weight averaging: what it makes of whole weights and of adapters, by the products that these are."""

from __future__ import annotations

import copy
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from seekr.errors import InputError
from seekr.methods import METHODS, Averaging, Olora, make_method
from seekr.methods.averaging import average_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("coefficient", [0.25, 0.5, 0.9])
def test_weights_are_averaged_in_float32(dtype: torch.dtype, coefficient: float) -> None:
    before = by_definition.tiny_llama(tie_word_embeddings=True).to(dtype)
    model = by_definition.moved(before)
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average_weights(model, before, coefficient)
    for name, found in model.state_dict().items():
        exact = (1 - coefficient) * before.state_dict()[name].double() + coefficient * trained[name].double()
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)
    if dtype == torch.float32:
        assert not torch.equal(found, trained[name])


def test_what_did_not_move_and_a_coefficient_of_one_change_no_bit() -> None:
    before = by_definition.tiny_llama()
    model = by_definition.moved(before)
    still = "model.layers.1.self_attn.q_proj.weight"
    model.load_state_dict(model.state_dict() | {still: before.state_dict()[still]})
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average_weights(model, before, 1.0)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    average_weights(model, before, 0.3)
    assert torch.equal(model.state_dict()[still], trained[still])


def adapted(model: nn.Module, **more: Any) -> nn.Module:
    """A model with an adapter as it begins: B = 0."""
    return get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", lora_alpha=6, **{"r": 3, **more}))


def trained(model: nn.Module, ranks: slice = slice(None)) -> nn.Module:
    """A copy some ranks of whose adapter moved."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "embedding_A" in name:
                parameter[ranks] += torch.randn_like(parameter[ranks])
            elif "lora_B" in name or "embedding_B" in name:
                parameter[:, ranks] += torch.randn_like(parameter[:, ranks])
    return model


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights that a base model and its adapter are, float64."""
    whole: Any = copy.deepcopy(model).double()
    return dict(whole.merge_and_unload().state_dict())


TARGETS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "down_proj"]},
    {"target_modules": ["embed_tokens", "v_proj"], "use_rslora": True},
]


@pytest.mark.parametrize("more", TARGETS, ids=["linear", "embeddings"])
def test_an_adapter_that_is_new_is_averaged_exactly(more: dict[str, Any]) -> None:
    """B = 0 before: where its random A were averaged too, the product would be another."""
    before = adapted(by_definition.tiny_llama(), **more)
    model = trained(before)
    expected = {name: 0.7 * merged(before)[name] + 0.3 * tensor for name, tensor in merged(model).items()}
    average_weights(model, before, 0.3)
    found = merged(model)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    assert any(not torch.equal(tensor, merged(before)[name]) for name, tensor in found.items())


def test_of_an_adapter_that_was_there_the_factors_are_averaged() -> None:
    """And by how much that is not the average of the products, as the docstring has it."""
    before = trained(adapted(by_definition.tiny_llama(), **TARGETS[0]))
    model = trained(before)
    one, two = dict(before.named_parameters()), {name: p.detach().clone() for name, p in model.named_parameters()}
    products = {name: 0.4 * tensor + 0.6 * merged(model)[name] for name, tensor in merged(before).items()}
    average_weights(model, before, 0.6)
    found = merged(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, 0.4 * one[name] + 0.6 * two[name], rtol=1e-5, atol=1e-6)
        if "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            off = 0.6 * 0.4 * (two[other] - one[other]) @ (two[name] - one[name]) * 2  # lora_alpha / r
            key = name.removeprefix("base_model.model.").replace("lora_A.default.", "")
            torch.testing.assert_close(products[key] - found[key], off.double(), rtol=1e-4, atol=1e-4)


def test_ranks_that_are_frozen_or_new_are_averaged_exactly() -> None:
    """As those of olora are: the adapters of earlier tasks stay, and a new one begins with B = 0."""
    before = trained(adapted(by_definition.tiny_llama(), **TARGETS[0], r=5), slice(0, 2))
    model = trained(before, slice(2, 5))
    products = {name: 0.5 * tensor + 0.5 * merged(model)[name] for name, tensor in merged(before).items()}
    average_weights(model, before, 0.5)
    for name, tensor in merged(model).items():
        torch.testing.assert_close(tensor, products[name], rtol=1e-5, atol=1e-5)
    frozen = {name: p for name, p in before.named_parameters() if "lora" in name}
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert torch.equal(parameter[:2], frozen[name][:2])
        elif "lora_B" in name:
            assert torch.equal(parameter[:, :2], frozen[name][:, :2])


def test_the_setting_is_no_setting_where_it_is_null() -> None:
    """Runs of before it was there are the same runs."""
    for name in set(METHODS) - {"averaging"}:
        assert "average" not in make_method(name).settings()
        assert make_method(make_method(name).settings()) == make_method(name)
    assert make_method({"name": "seekr", "average": 0.25}).settings()["average"] == 0.25
    assert Averaging().settings() == {"name": "averaging", "average": 0.5}
    assert Olora(average=0.5) != Olora()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "averaging", "average": None}, "method.average: input should be a valid number, not None"),
        ({"name": "averaging", "average": 0}, "method.average: input should be greater than 0, not 0"),
        ({"name": "seekr", "average": 1.5}, "method.average: .* less than or equal to 1, not 1.5"),
        ({"name": "sequential", "averag": 0.5}, "did you mean 'average'?"),
        ({"name": "l2p", "average": 0.5}, "method.average: l2p learns prompts and moves no weights"),
        ({"name": "progressive_prompts", "average": 0.5}, "method.average: progressive_prompts learns prompts"),
        ({"name": "lfpt5", "average": 0.5}, "method.average: lfpt5 learns prompts"),
    ],
)
def test_averages_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make_method(settings)
    assert "\n" not in str(caught.value)
