"""Short hashes that tell whether a memory or a run belongs to a tokenizer and a model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

_SHAPE_KEYS = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim",
)  # fmt: skip


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """Hash of everything that decides which ids a text becomes: vocabulary and rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if isinstance(rules, dict):
        # What the last call asked for (padding, truncation) is kept in the rules and changes nothing here.
        rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    parts = [rules, tokenizer.bos_token_id, tokenizer.eos_token_id, getattr(tokenizer, "chat_template", None)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_model(model: torch.nn.Module) -> str:
    """Hash of a model's shape and of 64 values spread over each of its parameters (the base's, for an adapter).

    Reading all of a large model would take minutes; any training moves some of these values.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    config = base.config.get_text_config()
    digest = hashlib.sha256(json.dumps([getattr(config, key, None) for key in _SHAPE_KEYS]).encode())
    for name, parameter in sorted(base.named_parameters()):
        if "lora_" in name or "modules_to_save" in name:
            continue
        flat = parameter.detach().flatten()
        if len(flat):
            flat = flat[torch.linspace(0, len(flat) - 1, 64, dtype=torch.float64).long().to(flat.device)]
        digest.update(name.replace(".base_layer", "").replace(".original_module", "").encode())
        digest.update(flat.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
