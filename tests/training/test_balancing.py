"""The balancing loss of a mixture of experts: transformers' own number, and the same step however it is cut up."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from ragged_rows import samples, with_layout
from torch import Tensor, nn
from toy_tasks import task_batch
from toy_training import Gradients, ToyMethod, log_lines, toy_trainer
from transformers import AutoModelForCausalLM

from seekr.methods import Objective, Sequential
from seekr.methods.progressive_prompts import ProgressivePrompts
from seekr.modeling.balancing import _PARAMETERS, PART, Balancer, Experts, experts_of
from seekr.modeling.batches import collate
from seekr.modeling.generation import generate_tokens

_SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "output_router_logits": True, "router_aux_loss_coef": 0.5,
}  # fmt: skip
_NAMED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": _LOCAL,
    "Qwen2Moe": {**_NAMED, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    "Qwen3Moe": {**_NAMED, "head_dim": 8, "decoder_sparse_step": 1},
    "Olmoe": _NAMED,
    "FlexOlmo": _NAMED,
    "GptOss": {**_LOCAL, "head_dim": 8},
    "Phimoe": _LOCAL,
    "GraniteMoe": _LOCAL,
    "MiniMax": {**_LOCAL, "layer_types": ["full_attention", "full_attention"]},
}


def model_of(family: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**_SIZES, **FAMILIES[family], **changes})
    return AutoModelForCausalLM.from_config(config)


def own_loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What transformers adds to the loss of one forward of these rows."""
    inner = next(module for module in model.modules() if isinstance(module, transformers.PreTrainedModel))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return inner.router_aux_loss_coef * inner(input_ids=ids, attention_mask=mask, labels=ids).aux_loss


def balance(model: Any, batch: Any) -> Tensor:
    experts = experts_of(model)
    assert isinstance(experts, Experts)
    return Balancer(experts, Accelerator(cpu=True)).task_loss(Objective(Sequential()).task_loss, model, batch)[PART]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_transformers_own(family: str) -> None:
    """Of padded rows; it was left out without a word, as a loss of our own is computed."""
    model = model_of(family).train()
    batch = task_batch(samples())
    found, expected = balance(model, batch), own_loss(model, batch.inputs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(loss, trained, allow_unused=True) for loss in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * other.abs().max().item())


MODULES = sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py"))


def test_every_family_means_the_same_by_it() -> None:
    """Whatever routers give: of each module that has this loss, on numbers of ours."""
    torch.manual_seed(0)
    routers, mask = [torch.randn(12, 4) * 3 for _ in range(3)], torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    experts = Experts(4, 2, 1.0)
    load = experts.load(routers, mask.bool().flatten())
    expected = experts.loss(routers, mask.bool().flatten(), load).item()
    names = [path for path in MODULES if "def load_balancing_loss_func(" in path.read_text(encoding="utf-8")]
    checked = []
    for path in names:
        module = import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        if list(signature(module.load_balancing_loss_func).parameters) == _PARAMETERS:
            found = module.load_balancing_loss_func(tuple(routers), 4, 2, mask)
            assert found.item() == pytest.approx(expected, rel=1e-5), path.stem
            checked.append(path.parent.name)
    assert {"mixtral", "qwen3_moe", "gpt_oss"} < set(checked)


def test_packed_rows_and_fillers_make_no_difference() -> None:
    model = model_of("Mixtral").train()
    expected = balance(model, task_batch(samples())).item()
    assert balance(model, with_layout(task_batch(samples()))).item() == pytest.approx(expected, rel=1e-5)
    filled = task_batch(samples(), [*range(7), 0, 5], fillers=2)
    assert balance(model, filled).item() == pytest.approx(expected, rel=1e-5)
    assert balance(model, with_layout(filled)).item() == pytest.approx(expected, rel=1e-5)


def test_an_adapter_is_balanced_too() -> None:
    adapted = get_peft_model(model_of("Mixtral"), LoraConfig(r=2, target_modules=["q_proj"]))
    batch = task_batch(samples())
    assert balance(adapted, batch).item() == pytest.approx(own_loss(adapted, batch.inputs).item(), rel=1e-5)


def gradients_of(folder: Path, **settings: Any) -> tuple[list[Tensor], Any]:
    gradients = Gradients()
    trainer = toy_trainer(
        folder, callbacks=[gradients], model=model_of("Mixtral"), kept=(3,), num_train_epochs=1,
        **{"learning_rate": 0.0} | settings,
    )  # fmt: skip
    trainer.train()
    return gradients.steps, trainer


@pytest.mark.parametrize("samples_", [11, 5])
def test_accumulation_is_a_bigger_batch(tmp_path: Path, samples_: int) -> None:
    whole, trainer = gradients_of(tmp_path / "8x1", per_device_train_batch_size=8, samples=samples_)
    lines = log_lines(tmp_path / "8x1")
    assert [PART in line for line in lines] == [line["kind"] == "task" for line in lines]
    for rows, accumulation in ((4, 2), (1, 8)):
        folder = tmp_path / f"{rows}x{accumulation}"
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        steps, _ = gradients_of(folder, samples=samples_, **settings)
        for step, wanted in zip(steps, whole, strict=True):
            torch.testing.assert_close(step, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())
        found = [line[PART] for line in log_lines(folder) if line["kind"] == "task"]
        assert found == pytest.approx([line[PART] for line in lines if line["kind"] == "task"], rel=1e-5)
    first = next(step for step in trainer.plan.epoch(0) if step.kind == "task")
    inputs = collate([trainer.rows.encoded(row) for row in first.rows], 0)
    own = own_loss(model_of("Mixtral"), inputs).item()
    assert next(line for line in lines if line["kind"] == "task")[PART] == pytest.approx(own, rel=1e-5)


def test_looking_ahead_draws_nothing(tmp_path: Path) -> None:
    """With dropout, a run that looks ahead sees the random numbers that it would have seen."""

    class Drawn(ToyMethod):
        def task_loss(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            drawn.append(torch.rand(()).item())
            return super().task_loss(model, batch)

    runs = []
    for balanced in (True, False):
        drawn: list[float] = []
        model = model_of("Mixtral", attention_dropout=0.1, output_router_logits=balanced)
        accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
        toy_trainer(tmp_path / str(balanced), model=model, method=Drawn(), num_train_epochs=1, **accumulated).train()
        runs.append(drawn)
    assert runs[0] == runs[1]


def test_what_is_left_out_is_said() -> None:
    off = experts_of(model_of("Mixtral", output_router_logits=False))
    assert isinstance(off, str)
    assert "output_router_logits false; true makes 0.5 times the balancing loss part of the task loss" in off
    prompted = ProgressivePrompts(prompt_tokens=2).form.adapt(model_of("Mixtral"), None)
    assert "the model stays frozen" in str(experts_of(prompted))
    assert "torch_compile" in str(experts_of(model_of("Mixtral"), compiled=True))
    assert experts_of(model_of("Mixtral", router_aux_loss_coef=0.0)) is None
    doge = transformers.DogeConfig(**{**_SIZES, "is_moe": True, "num_experts": 16, "num_experts_per_tok": 2})
    assert "this family has one of its own kind" in str(experts_of(AutoModelForCausalLM.from_config(doge)))
    assert experts_of(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
def test_a_model_that_asks_for_balance_can_be_scored(family: str, lora: bool) -> None:
    """It was a traceback once trained: transformers took the balancing loss of every token that was generated."""
    model = model_of(family)
    if lora:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    prompts = [np.array(ids, dtype=np.int32) for ids in ([5, 6, 7], [8], [9, 10])]
    found = generate_tokens(model, tokenizer, prompts, max_new_tokens=4, batch_size=2)
    quiet = model_of(family, output_router_logits=False)
    assert found == generate_tokens(quiet, tokenizer, prompts, max_new_tokens=4, batch_size=2)
    assert model.config.output_router_logits  # as it was: training goes on
