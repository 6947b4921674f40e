"""The model families that are checked against eager attention, and how far seekr's numbers lie from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import attention_definitions as by_definition
import torch
import transformers
from torch import nn

from seekr.attention.change import measure_change
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.sensitivity import measure_sensitivity
from seekr.attention.support import check_attention
from seekr.errors import InputError

_COMMON = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_PLAIN = {key: value for key, value in _COMMON.items() if key != "num_key_value_heads"}
_ALTERNATING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
_MOE = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """A family by its usual name, and a tiny configuration of it."""

    name: str
    config: Callable[[], transformers.PreTrainedConfig]
    attending: tuple[int, int] = (0, 1)
    """The layers with attention; of four in hybrids."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return by_definition.sharpened(transformers.AutoModelForCausalLM.from_config(self.config()), 8.0)


def _family(name: str, kind: str, attending: tuple[int, int] = (0, 1), **settings: object) -> Family:
    return Family(name, lambda: getattr(transformers, kind)(**settings), attending)


def _hybrid(name: str, kind: str, **settings: object) -> Family:
    return _family(name, kind, (1, 3), **_COMMON | {"num_hidden_layers": 4} | settings)


EXACT = [
    _family("Llama", "LlamaConfig", **_COMMON),
    _family("Mistral", "MistralConfig", **_COMMON, sliding_window=5),
    _family("Mixtral", "MixtralConfig", **_COMMON, num_local_experts=4, sliding_window=5),
    _family("Qwen2", "Qwen2Config", **_COMMON),
    _family("Qwen3", "Qwen3Config", **_COMMON, head_dim=16),
    _family("Qwen3-MoE", "Qwen3MoeConfig", **_COMMON, **_MOE, head_dim=16),
    _family("Gemma 2", "Gemma2Config", **_COMMON, **_ALTERNATING, query_pre_attn_scalar=16, attn_logit_softcapping=5.0),
    _family("Gemma 3", "Gemma3TextConfig", **_COMMON, **_ALTERNATING, query_pre_attn_scalar=16),
    _family("Phi-3", "Phi3Config", **_COMMON, sliding_window=5),
    _family("GPT-2", "GPT2Config", **_GPT, n_positions=64),
    _family("GPT-NeoX", "GPTNeoXConfig", **_PLAIN),
    _family("OLMo 2", "Olmo2Config", **_COMMON),
    _family("SmolLM3", "SmolLM3Config", **_COMMON, no_rope_layers=[1, 0]),
    _family("Granite", "GraniteConfig", **_COMMON, attention_multiplier=0.2),
    _family("StarCoder2", "Starcoder2Config", **_COMMON),
    _family("OPT", "OPTConfig", **_PLAIN, ffn_dim=48, word_embed_proj_dim=32),
    _family("gpt-oss", "GptOssConfig", **_COMMON, **_ALTERNATING, num_local_experts=4, num_experts_per_tok=2,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
]  # fmt: skip

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
_DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 16}  # fmt: skip

HYBRID = [
    _hybrid("Jamba", "JambaConfig", num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
            use_mamba_kernels=False, mamba_d_state=8),
    _hybrid("LFM2", "Lfm2Config", layer_types=["conv", "full_attention"] * 2),
    _hybrid("Qwen3-Next", "Qwen3NextConfig", **_MOE, **_DELTA, shared_expert_intermediate_size=16),
    _hybrid("Granite 4 hybrid", "GraniteMoeHybridConfig", **_MAMBA, layer_types=["mamba", "attention"] * 2,
            num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=48, mamba_expand=2),
    _hybrid("Bamba", "BambaConfig", **_MAMBA, attn_layer_indices=[1, 3], mamba_expand=2),
]  # fmt: skip
"""Families in which some layers have no attention, but a state-space model, a convolution or linear attention."""

REFUSED = [
    _family("BLOOM", "BloomConfig", vocab_size=96, hidden_size=32, n_layer=2, n_head=4),
    _family("GPT-J", "GPTJConfig", **_GPT, n_positions=64, rotary_dim=4),
    _family("Falcon", "FalconConfig", **_PLAIN),
    _family("MPT", "MptConfig", vocab_size=96, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    _family("Mamba", "MambaConfig", vocab_size=96, hidden_size=32, num_hidden_layers=2),
    _family("Zamba2", "Zamba2Config", **_COMMON | {"num_hidden_layers": 4}, mamba_d_state=8, n_mamba_heads=4,
            mamba_ngroups=1, chunk_size=8, layers_block_type=["mamba", "hybrid"] * 2, use_mamba_kernels=False,
            num_mem_blocks=1, adapter_rank=4),
]  # fmt: skip

LENGTHS = (11, 7, 9)


def windows_of(model: nn.Module) -> list[int | None]:
    """The window of each layer as the configuration says it."""
    config = model.config
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [getattr(config, "sliding_window", None) if kind == "sliding_attention" else None for kind in types]


def errors(model: nn.Module, side: str, attending: tuple[int, int] = (0, 1)) -> dict[str, float]:
    """Relative errors of seekr's numbers against eager maps with autograd, on a batch padded on `side`.

    `attending`: the layers with attention, which are those that eager attention has maps of.
    """
    spans = by_definition.spans_of(LENGTHS, side)
    batch = by_definition.make_batch(LENGTHS, side=side)
    student = by_definition.moved(model, 0.3)
    eager_teacher, eager_student = by_definition.eager(model), by_definition.eager(student)
    heads = dict(zip(attending, ([0, 3], [1, 2, 3]), strict=True))
    others = [layer for layer in range(model.config.num_hidden_layers) if layer not in attending]

    def maps(eager: nn.Module) -> dict[int, torch.Tensor]:
        return dict(zip(attending, by_definition.eager_maps(eager, batch), strict=True))

    def compared(table: torch.Tensor, expected: torch.Tensor) -> float:
        return by_definition.relative_error(table[list(attending)], expected) + float(table[others].abs().sum())

    queries = torch.tensor([[6, 0, 3], [2, 5, 5], [1, 4, 6]])
    sink = model.config.model_type == "gpt_oss"
    found: dict[str, list[float]] = {"divergence": [], "gradient": [], "sensitivity": [], "change": []}

    with torch.no_grad():
        teacher_maps = maps(eager_teacher)
    for asked in (None, queries):
        loss = attention_distillation_loss(
            student, model, batch, {layer: torch.tensor(kept) for layer, kept in heads.items()}, queries=asked
        )
        expected = by_definition.distillation_loss(
            maps(eager_student), teacher_maps, spans, heads,
            None if asked is None else asked.tolist(), sink=sink,
        )  # fmt: skip
        found["divergence"].append(by_definition.relative_error(loss.detach(), expected.detach()))
        found["gradient"].append(
            by_definition.gradient_error(
                by_definition.gradients(student, loss), by_definition.gradients(eager_student, expected)
            )
        )

    map_gradients = by_definition.map_gradients(eager_student, batch)
    for entries, norm in (("visible", "frobenius"), ("visible", "mean_square"), ("all", "frobenius")):
        windows = [windows_of(model)[layer] for layer in attending]
        expected = by_definition.sensitivity(map_gradients, spans, windows, entries, norm)
        measured = measure_sensitivity(student, batch, entries=entries, norm=norm)
        found["sensitivity"].append(compared(measured, expected))
    with torch.no_grad():
        student_maps = maps(eager_student)
    for norm in ("frobenius", "mean_square"):
        expected = by_definition.change(list(teacher_maps.values()), list(student_maps.values()), spans, norm)
        found["change"].append(compared(measure_change(model, student, batch, norm=norm), expected))
    return {name: max(values) for name, values in found.items()}


def refusal(model: nn.Module) -> str | None:
    """The line with which the check refuses the model, or None."""
    try:
        check_attention(model)
    except InputError as error:
        return str(error)
    return None
