"""What the step bench runs: models whose attention work is that of a real run, as large as the device allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from seekr.attention.heads import spread_heads
from seekr.memory.reader import KeptSample

Way = tuple[str, int | None]
"""How a step is taken: "plain", "seekr" or "eager" (by built maps), and the query budget."""


@dataclass(frozen=True)
class Shape:
    """A random Llama and a replay batch of it.

    Attributes:
        layers, heads, key_heads, head_size, intermediate, vocabulary: of the model.
        chosen: (layers that hold chosen heads, the last ones; how many heads they hold together).
        samples, lengths: rows of the replay batch, and their tokens, one bench each.
        device, dtype: where and in what it is trained, as torch names them.
    """

    name: str
    layers: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    chosen: tuple[int, int]
    samples: int
    lengths: tuple[int, ...]
    device: str
    dtype: str

    def chosen_heads(self) -> dict[int, tuple[int, ...]]:
        """Layer → its chosen heads, spread over the layers, and over the heads of a layer, as evenly as it goes."""
        layers, heads = self.chosen
        return {
            self.layers - layers + i: tuple(self.heads * j // count for j in range(count))
            for i, count in enumerate(spread_heads(heads, layers))
        }

    def model(self, seed: int) -> Any:
        """The model, its weights drawn from `seed`."""
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.heads * self.head_size,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=8192,
        )
        torch.manual_seed(seed)
        with torch.device(self.device):
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype))

    def rows(self, length: int) -> list[KeptSample]:
        """The kept samples: half of a row is answer."""
        draw = np.random.default_rng(0)
        return [self.row(draw, length, length // 2) for _ in range(self.samples)]

    def row(self, draw: np.random.Generator, length: int, prompt: int) -> KeptSample:
        """A drawn row of which the first `prompt` tokens are the prompt."""
        ids = draw.integers(3, self.vocabulary, length)
        return KeptSample.of(ids[:prompt], ids[prompt:])


SMALL = Shape("27M", 8, 8, 8, 64, 1376, 8192, (6, 24), 2, (512, 1024, 2048), "cpu", "float32")
LLAMA_2_7B = Shape("Llama-2-7B", 32, 32, 32, 128, 11008, 32000, (24, 128), 1, (2048, 4096), "cuda", "bfloat16")
GROUPED_7B = Shape("7B, 8 key heads", 32, 32, 8, 128, 11008, 32000, (24, 128), 1, (2048, 4096), "cuda", "bfloat16")


def shapes_here() -> tuple[Shape, ...]:
    """Those that suit this machine's device."""
    return (LLAMA_2_7B, GROUPED_7B) if torch.cuda.is_available() else (SMALL,)
