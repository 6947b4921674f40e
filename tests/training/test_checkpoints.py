"""What is read back of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_training import StopBehind, toy_experts, toy_model, toy_trainer
from transformers import TrainerCallback

from seekr.disk.files import list_files
from seekr.errors import RunError
from seekr.training.checkpoints import MARKER, mark
from seekr.training.keeper import check_all_loaded, load_trained_adapter


def test_the_trained_adapter_is_loaded_where_another_lies_beside_it(tmp_path: Path) -> None:
    """transformers 5.17 loads the other one alone: a resumed task of olora began again."""
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


def test_a_tied_weight_is_stored_once_and_is_not_missing() -> None:
    """transformers warned of lm_head.weight whenever a tied model went on."""
    model = toy_model()
    with pytest.raises(RunError, match=r"lacks lm_head\.weight"):
        check_all_loaded(model, ["lm_head.weight"], [])
    model.lm_head.weight = model.model.embed_tokens.weight
    check_all_loaded(model, ["lm_head.weight"], [])


@pytest.mark.parametrize(("renamed", "said"), [(False, "lacks model.norm.weight"), (True, "has model.other.weight")])
def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path, renamed: bool, said: str) -> None:
    """transformers warned, and trained on with the weight that the model had before."""
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer = toy_trainer(tmp_path, callbacks=[StopBehind(3)], **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    checkpoint = tmp_path / "training/checkpoint-2"
    content = load_file(checkpoint / "model.safetensors")
    norm = content.pop("model.norm.weight")
    save_file(content | ({"model.other.weight": norm} if renamed else {}), checkpoint / "model.safetensors")
    (checkpoint / MARKER).unlink()
    mark(checkpoint, processes=1, files=list_files(checkpoint), log=tmp_path / "log.jsonl")
    with pytest.raises(RunError, match=said):
        toy_trainer(tmp_path, **settings).train(resume_from_checkpoint=True)


def test_a_mixture_of_experts_goes_on_with_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    """Its experts are saved by other names than they have: they went on as before the task, then not at all."""

    def train(folder: Path, *callbacks: TrainerCallback) -> dict[str, Tensor]:
        model = toy_experts()
        trainer = toy_trainer(folder, model=model, callbacks=list(callbacks), save_strategy="steps", save_steps=2)
        trainer.train(resume_from_checkpoint=True)
        return model.state_dict()

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", StopBehind(3))
    expected = train(tmp_path / "whole")
    for name, weight in train(tmp_path / "stopped").items():
        assert torch.equal(weight, expected[name]), name
