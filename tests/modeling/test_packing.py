"""Packed rows give the loss and gradients of padded ones; what a layout costs; which models are packed at all."""

from __future__ import annotations

from typing import Any

import attention_definitions as by_definition
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from ragged_rows import samples, with_layout
from torch import Tensor, nn
from toy_tasks import as_kept, task_batch

from seekr.methods import Lwf, Objective, Sequential
from seekr.methods.responses import HeldToRecord
from seekr.methods.soft_prompts import SoftPromptModel
from seekr.modeling.batches import Layout
from seekr.modeling.losses import TopLogits
from seekr.modeling.packing import layout_planner, plan_layout


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def assert_same(model: nn.Module, one: Tensor, two: Tensor) -> None:
    assert one.item() == pytest.approx(two.item(), rel=1e-5, abs=1e-6)
    pairs = zip(gradients(model, one), gradients(model, two), strict=True)
    assert max(by_definition.relative_error(a, b, 1e-3) for a, b in pairs) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("places", [range(7), [0, 2, 4], [5, 2, 3, 1]], ids=str)
def test_a_packed_task_step_is_the_padded_one(attention: str, window: int | None, places: list[int]) -> None:
    rows = samples()
    model = by_definition.tiny_llama()
    if window is not None:
        config = transformers.MistralConfig(**model.config.to_diff_dict() | {"sliding_window": window})
        model = by_definition.sharpened(transformers.MistralForCausalLM(config))
    model.set_attn_implementation(attention)
    padded = task_batch(rows, list(places))
    packed_batch = with_layout(padded, attention)
    losses = [Objective(Sequential()).task_loss(model, batch)["task"] for batch in (packed_batch, padded)]
    assert_same(model, *losses)


def test_lora_and_a_filler() -> None:
    model = get_peft_model(by_definition.tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    padded = task_batch(samples(), [0, 1, 3, 6])
    losses = [Objective(Sequential()).task_loss(model, batch)["task"] for batch in (with_layout(padded), padded)]
    assert_same(model, *losses)
    filler = task_batch(samples(), [0, 1, 3, 6], fillers=4)
    assert Objective(Sequential()).task_loss(model, with_layout(filler))["task"].item() == 0


def test_rows_keep_their_teachers() -> None:
    """lwf compares each row's logits to its own."""
    model, rows = by_definition.tiny_llama(), [row for row in samples() if len(row.input_ids) > 1]
    objective = HeldToRecord(Lwf(), None, rows)
    other = by_definition.moved(model, 0.5)
    plain = task_batch(rows)
    with torch.no_grad():
        logits = other(**plain.inputs).logits
    answers = [(plain.labels[i, 1:] != -100).nonzero().flatten() for i in range(len(rows))]
    stored = [recorded(logits[i, where]) for i, where in enumerate(answers)]
    padded = task_batch(rows, signals={-1: lambda row: as_kept(stored[row])})
    parts = [objective.task_loss(model, batch) for batch in (with_layout(padded), padded)]
    for name in ("task", "distillation"):
        assert parts[0][name].item() == pytest.approx(parts[1][name].item(), rel=1e-5, abs=1e-6)
    assert_same(model, *(torch.stack(list(found.values())).sum() for found in parts))


def recorded(logits: Tensor) -> TopLogits:
    return TopLogits.of_logits(logits / 2, 100, torch.float32)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
    st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
    st.integers(1, 500),
)
def test_every_token_has_one_place(lengths: list[int], attention: str, hidden_size: int) -> None:
    layout = plan_layout(lengths, hidden_size, attention=attention)
    if layout is None:
        return
    count, area = max(layout.rows) + 1, len(lengths) * max(lengths)
    places = [
        (row, start + i)
        for row, start, length in zip(layout.rows, layout.starts, lengths, strict=True)
        for i in range(length)
    ]
    assert len(set(places)) == sum(lengths)
    assert max(place for _, place in places) < layout.width
    assert count * layout.width < area  # fewer tokens, else there is no reason
    if attention == "eager":
        assert count * layout.width**2 <= area * max(lengths)
    if attention == "flash_attention_2":
        assert (count, layout.width) == (1, sum(lengths))
    mask = torch.tensor([[int(i < n) for i in range(max(lengths))] for n in lengths])
    batch = {"input_ids": mask * torch.arange(1, len(lengths) + 1)[:, None], "attention_mask": mask}
    inputs = {name.removeprefix("packed/"): tensor for name, tensor in layout.tensors(batch).items()}
    for row, (to, start, length) in enumerate(zip(layout.rows, layout.starts, lengths, strict=True)):
        assert inputs["input_ids"][to, start : start + length].tolist() == [row + 1] * length
        assert inputs["position_ids"][to, start : start + length].tolist() == list(range(length))
    assert int((inputs["input_ids"] > 0).sum()) == sum(lengths)
    assert inputs["places"][mask.bool()].tolist() == [row * layout.width + place for row, place in places]


def test_layouts_of_known_costs() -> None:
    assert plan_layout([7], 64, attention="sdpa") is None
    assert plan_layout([40] * 4, 64, attention="sdpa") is None  # nothing is padded
    assert plan_layout([40, 1, 1, 1], 10**6, attention="sdpa") == Layout(43, (0, 0, 0, 0), (0, 40, 41, 42))
    assert plan_layout([40, 20, 20], 64, attention="eager") == Layout(40, (0, 1, 1), (0, 0, 20))
    # A model so narrow that attention is all that counts: a mask costs more than the padding.
    assert plan_layout([40, 30, 30, 30], 1, attention="sdpa") is None


def test_families_are_packed_only_where_rows_stay_alone() -> None:
    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
    assert layout_planner(by_definition.tiny_llama()) is not None
    state = transformers.AutoModelForCausalLM.from_config(transformers.MambaConfig(**sizes))
    assert layout_planner(state) is None
    bloom = transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)
    assert layout_planner(transformers.AutoModelForCausalLM.from_config(bloom)) is None
    assert layout_planner(SoftPromptModel(by_definition.tiny_llama(), 3)) is None


def test_a_state_that_does_little_is_no_reason_to_pack() -> None:
    """Rows of hybrids were packed where a row before them did less than attending to it does: its state went on."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    settings: dict[str, Any] = sizes | {"num_hidden_layers": 2, "num_key_value_heads": 2}
    conv = transformers.Lfm2Config(**settings, layer_types=["conv", "full_attention"])
    states = transformers.FalconH1Config(
        **settings, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=8, head_dim=8
    )
    for config in (conv, states):
        assert layout_planner(transformers.AutoModelForCausalLM.from_config(config)) is None


def test_experts_are_packed() -> None:
    sizes: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    experts = transformers.MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4)
    assert layout_planner(transformers.AutoModelForCausalLM.from_config(experts)) is not None


def test_trying_leaves_the_model_and_the_random_state_as_found() -> None:
    model = by_definition.tiny_llama(attention_dropout=0.5).train()
    model.model.norm.eval()
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    assert layout_planner(model) is not None
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
