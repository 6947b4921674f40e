"""Two states of one LoRA model on one base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from seekr.modeling.shared_base import on_same_base, shares_base


def adapted(**settings: Any) -> Any:
    """A model whose adapter has learned something."""
    model: Any = by_definition.tiny_llama()
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], **settings)
    )
    return drawn(model).eval()


def drawn(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"init_lora_weights": False, "lora_dropout": 0.5}])
def test_the_model_before_is_as_it_is_alone_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain: Any = by_definition.tiny_llama()
    ids = torch.randint(3, 96, (2, 9))
    torch.manual_seed(0)
    model = adapted(**settings)
    model.save_pretrained(tmp_path)
    alone = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path)).eval()
    drawn(model)
    now, trained = model(input_ids=ids).logits, [parameter.requires_grad for parameter in model.parameters()]
    for before, expected in ((on_same_base(model, None), plain), (on_same_base(model, tmp_path), alone)):
        assert torch.equal(before(input_ids=ids).logits, expected(input_ids=ids).logits)
        assert not before.training
        assert not any(parameter.requires_grad for parameter in before.parameters())
        shared = {parameter.data_ptr() for parameter in model.parameters()}
        own = [name for name, parameter in before.named_parameters() if parameter.data_ptr() not in shared]
        assert all("lora_" in name for name in own)
    assert torch.equal(model(input_ids=ids).logits, now)  # it has not moved
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [3]},
    ],
)
def test_what_changes_the_base_does_not_share_it(settings: dict[str, Any]) -> None:
    assert shares_base(adapted())
    assert not shares_base(adapted(**settings))
    assert not shares_base(by_definition.tiny_llama())


def test_two_adapters_do_not_share_a_base() -> None:
    model = adapted()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    assert not shares_base(model)
