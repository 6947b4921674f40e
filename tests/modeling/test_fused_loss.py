"""Liger's fused loss, run by Triton's interpreter, gives the loss and gradients of the logits that it never has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from ragged_rows import samples, with_layout
from torch import nn
from toy_tasks import task_batch, toy_samples
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.integrations.liger import apply_liger_kernel

from seekr.config.training_arguments import check_training, training_arguments
from seekr.errors import InputError
from seekr.methods import Objective, Replay, Sequential
from seekr.methods.replay import AnswerReplay
from seekr.modeling.fused_loss import computes_loss
from seekr.modeling.losses import answer_positions, logits_at
from seekr.training.trainer import ContinualTrainer

# The others are not for the interpreter.
FUSED = {"rope": False, "rms_norm": False, "swiglu": False, "fused_linear_cross_entropy": True}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="runs under Triton's interpreter")


def fused(model: Any) -> nn.Module:
    apply_liger_kernel(model, FUSED)
    assert computes_loss(model)
    return model.train()  # type: ignore[no-any-return]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("places", [range(7), [0, 2, 4], [5, 3]], ids=str)
def test_a_task_step_without_logits(lora: bool, pack: bool, places: list[int]) -> None:
    plain: Any = by_definition.tiny_llama()
    if lora:
        plain = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"]))
    other = copy.deepcopy(plain)
    assert not computes_loss(plain)
    other, batch = fused(other), task_batch(samples(), list(places))
    batch = with_layout(batch) if pack else batch
    expected = Objective(Sequential()).task_loss(plain.train(), batch)["task"]
    found = Objective(Sequential()).task_loss(other, batch)["task"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    trained = [[p for p in model.parameters() if p.requires_grad] for model in (plain, other)]
    pairs = zip(torch.autograd.grad(expected, trained[0]), torch.autograd.grad(found, trained[1]), strict=True)
    assert max(by_definition.relative_error(b, a, 1e-3) for a, b in pairs) < 1e-5


def test_what_balances_experts_is_no_part_of_it() -> None:
    """Liger's forward adds it whole to each micro-batch, however many make a step."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    config = MixtralConfig(**sizes, **heads, output_router_logits=True, router_aux_loss_coef=0.5)
    plain = MixtralForCausalLM(config).train()
    other, batch = fused(copy.deepcopy(plain)), task_batch(samples())
    expected = Objective(Sequential()).task_loss(plain, batch)["task"].item()
    assert Objective(Sequential()).task_loss(other, batch)["task"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pack", [False, True])
def test_fillers_count_for_nothing(pack: bool) -> None:
    model = fused(by_definition.tiny_llama())
    filler = task_batch(samples(), [0, 1, 3, 6], fillers=4)
    filler = with_layout(filler) if pack else filler
    assert Objective(Sequential()).task_loss(model, filler)["task"].item() == 0


def test_logits_are_to_be_had_where_liger_took_the_place_of_the_forward() -> None:
    """It takes no mask of places: replay steps, measuring and remembering failed."""
    model = by_definition.tiny_llama()
    batch = task_batch(samples(), [0, 3, 6])
    asked = answer_positions(batch.labels)
    expected = logits_at(model, batch.unmasked, *asked)
    for found in (logits_at(fused(model), batch.unmasked, *asked), logits_at(model.eval(), batch.unmasked, *asked)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("losses", [Objective(Sequential()), AnswerReplay(Replay())], ids=["sequential", "replay"])
def test_a_run_with_it_is_the_run_without(tmp_path: Path, losses: Objective) -> None:
    """The trainer finds out by itself; replay steps have their logits either way."""
    start = by_definition.tiny_llama()
    weights = []
    for liger in (False, True):
        model = copy.deepcopy(start)
        settings = {"per_device_train_batch_size": 3, "num_train_epochs": 2, "use_cpu": True, "learning_rate": 1e-2}
        settings |= {"optim": "sgd", "use_liger_kernel": liger, "liger_kernel_config": FUSED}
        trainer = ContinualTrainer(
            model,
            training_arguments(settings, output_dir=tmp_path / str(liger), seed=0),
            losses=losses,
            train_samples=toy_samples(7),
            task_name="toy",
            task_index=0,
            log_path=tmp_path / f"{liger}.jsonl",
            pad_token_id=0,
        )
        trainer.train()
        assert computes_loss(model) == liger
        weights.append(flat(model))
    moved = (weights[0] - flat(start)).norm()
    assert moved > 0.01
    assert (weights[1] - weights[0]).norm() < 1e-4 * moved


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_it_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(InputError, match=r"training.use_liger_kernel: .* GPU"):
        check_training({"use_liger_kernel": True})
