"""A random Llama as a folder, for what is measured of runs: its size is all that counts."""

from __future__ import annotations

from pathlib import Path

OF_25_MILLION = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 512,
}
"""Sizes of a Llama of 25 million parameters."""


def write_random_model(folder: Path, *, model_max_length: int | None = None, **sizes: int) -> None:
    """Writes a model with the built-in tokenizer.

    Args:
        model_max_length: of the tokenizer; None = as it is.
        sizes: fields of LlamaConfig; the vocabulary is the tokenizer's unless they name a larger one.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from seekr.builtin import builtin_model

    tokenizer = AutoTokenizer.from_pretrained(builtin_model())
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), **sizes},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
