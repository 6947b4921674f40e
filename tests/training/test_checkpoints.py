"""What is read back of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import attention_definitions as by_definition
import torch
from peft import LoraConfig, get_peft_model

from seekr.training.keeper import load_trained_adapter


def test_the_trained_adapter_is_loaded_where_another_lies_beside_it(tmp_path: Path) -> None:
    """transformers 5.17 loads the other one alone: a resumed task of olora began anew."""
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    model = get_peft_model(by_definition.tiny_llama(), lora)  # type: ignore[arg-type]
    model.add_adapter("past", lora)
    weights = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    for parameter in weights.values():
        torch.nn.init.normal_(parameter)
    expected = {name: p.detach().clone() for name, p in weights.items()}
    model.save_pretrained(tmp_path)
    for name, parameter in weights.items():
        if "default" in name:
            torch.nn.init.zeros_(parameter)
    load_trained_adapter(model, tmp_path)
    for name, parameter in weights.items():
        assert torch.equal(parameter, expected[name]), name
