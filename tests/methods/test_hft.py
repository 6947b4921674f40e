"""Half fine-tuning: which half of the weights of a layer stays, for any family."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
from torch import nn
from toy_tasks import context
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, OPTConfig, Qwen3Config

from seekr.errors import InputError
from seekr.methods import Hft
from seekr.methods.hft import freeze_half, units_of_layers

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES: dict[str, tuple[Any, dict[str, int]]] = {
    "gpt2": (
        GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=32),
        {"attention": 2, "feed-forward": 2, "norm": 2},
    ),
    "opt": (
        OPTConfig(
            vocab_size=64,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            word_embed_proj_dim=32,
        ),
        {"attention": 4, "feed-forward": 2, "norm": 2},
    ),
    "qwen3": (Qwen3Config(**SMALL), {"attention": 4, "feed-forward": 3, "norm": 4}),
    "mixtral": (MixtralConfig(**SMALL, num_local_experts=2), {"attention": 4, "feed-forward": 3, "norm": 2}),
}


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("seed", range(8))
def test_the_rule_of_the_paper_on_a_llama(seed: int) -> None:
    """Two of four attention matrices, two or one of three feed-forward ones, one of two norms, in every layer."""
    model = by_definition.tiny_llama(num_hidden_layers=6).requires_grad_(True)
    freeze_half(model, np.random.default_rng(seed))
    left = frozen(model)
    feed_forward = []
    for layer in range(6):
        names = [name.removeprefix(f"model.layers.{layer}.") for name in left if f".layers.{layer}." in name]
        kinds = Counter("norm" if "norm" in name else name.split(".")[0] for name in names)
        assert kinds["self_attn"] == 2
        assert kinds["norm"] == 1
        feed_forward.append(kinds["mlp"])
    assert sorted(feed_forward) == [1, 1, 1, 2, 2, 2]
    assert not any(word in name for name in left for word in ("embed", "lm_head", "model.norm"))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_halved_alike(family: str) -> None:
    config, counts = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(config)
    layers = units_of_layers(model)
    assert len(layers) == 3
    for kinds in layers.values():
        assert {kind: len(units) for kind, units in kinds.items()} == counts
    inside = {id(parameter) for kinds in layers.values() for units in kinds.values() for u in units for parameter in u}
    stack = {id(p) for name, p in model.named_parameters() if any(part.isdigit() for part in name.split("."))}
    assert inside == stack  # every weight of a layer is in one unit, and none from elsewhere
    shares = []
    for seed in range(40):
        freeze_half(model, np.random.default_rng(seed))
        left = frozen(model)
        sizes = {name: p.numel() for name, p in model.named_parameters() if id(p) in inside}
        shares.append(sum(sizes[name] for name in left) / sum(sizes.values()))
        for name in left:  # a bias goes with its matrix
            assert name.replace("bias", "weight") in left
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)


def test_another_half_for_each_task_and_seed_and_the_same_again(tmp_path: Path) -> None:
    model = by_definition.tiny_llama()
    halves = []
    for changes in ({"index": 0}, {"index": 1}, {"index": 0, "seed": 1}, {"index": 0}):
        Hft().start(context(tmp_path, model, [], **changes))
        halves.append(frozen(model))
    assert halves[0] == halves[3]
    assert len({frozenset(half) for half in halves}) == 3
    assert not frozen(Hft().form.trained(model))


def test_the_dry_run_counts_what_is_trained() -> None:
    model = by_definition.tiny_llama().requires_grad_(True)
    every = sum(parameter.numel() for parameter in model.parameters())
    adapted = Hft().form.adapt(model, None)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    outside = sum(p.numel() for name, p in model.named_parameters() if ".layers." not in name)
    assert 0.4 < (trained - outside) / (every - outside) < 0.6
    assert Hft().form.stored_parameters(adapted, trained) == every


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no numbered layers"):
        Hft().check_model(nn.Linear(2, 2))
    Hft().check_model(by_definition.tiny_llama())
