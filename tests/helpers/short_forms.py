"""What tests ask for at once, in the package's own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seekr.data.encoding import encode_prompts
from seekr.data.example import Example
from seekr.data.tokenizing import decode
from seekr.modeling.generation import generate_tokens


def encode_prompt(example: Example, tokenizer: Any, max_length: int | None, max_new_tokens: int) -> np.ndarray:
    """The ids that one row is asked with."""
    return encode_prompts([example], tokenizer, max_length, max_new_tokens)[0].ids


def generate_answers(model: Any, tokenizer: Any, prompts: Sequence[np.ndarray], **options: Any) -> list[str]:
    """The greedy answer to each prompt, as text without special tokens."""
    return [
        decode(answer.ids, tokenizer, special=False) for answer in generate_tokens(model, tokenizer, prompts, **options)
    ]
