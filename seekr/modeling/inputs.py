"""The arguments of a model's forward."""

from __future__ import annotations

import torch
from torch import Tensor

from seekr.errors import InputError


def sample_spans(attention_mask: Tensor) -> list[tuple[int, int]]:
    """First token and end of each sample, in columns of the batch: [(start, stop)], padding on either side.

    Args:
        attention_mask: [samples, length], 1 = token.

    Raises:
        InputError: if a sample has no token, or padding between its tokens.
    """
    attention_mask = attention_mask.long()
    lengths = attention_mask.sum(dim=1).tolist()
    starts = attention_mask.argmax(dim=1).tolist()
    stops = (attention_mask.shape[1] - attention_mask.flip(1).argmax(dim=1)).tolist()
    for row, (length, start, stop) in enumerate(zip(lengths, starts, stops, strict=True)):
        if length == 0 or stop - start != length:
            raise InputError(
                f"attention_mask of sample {row} must be one run of ones; pad on the left or the right only"
            )
    return list(zip(starts, stops, strict=True))


def model_inputs(batch: dict[str, Tensor], device: torch.device | None = None) -> dict[str, Tensor]:
    """The forward arguments of a batch: ids, mask, and positions."""
    mask = batch["attention_mask"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "position_ids": position_ids(mask)}
    return {name: tensor.to(device) for name, tensor in inputs.items()} if device is not None else inputs


def position_ids(attention_mask: Tensor) -> Tensor:
    """[samples, length]: positions counted from each sample's first token, so that padding on either side changes
    none. Models with learned positions (GPT-2) give other logits for a padded sample unless they get them."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
