"""The loss of a task step by a model that computes it from its last hidden states, so that no logits are ever there.

Liger's fused loss is such a one: `training.use_liger_kernel=true` puts it into models of the families that it knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seekr.data.token_rows import IGNORED
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import own_forward
from seekr.modeling.packing import moved, packed


def computes_loss(model: nn.Module) -> bool:
    """Whether Liger's forward has taken the place of the model's own."""
    return own_forward(model).__module__.startswith("liger_kernel")


def fused_task_loss(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Σ cross-entropy of the micro-batch's answer tokens / answer tokens of the step; Tensor[].

    `model` is in training mode, where its forward gives a loss and no logits.
    """
    labels = batch.labels.masked_fill(batch.weights[:, None] == 0, IGNORED)
    inputs = batch.unmasked
    if batch.layout is not None:
        inputs = packed(batch)
        rows, places = batch.answers_at
        side_by_side = torch.full_like(inputs["input_ids"], IGNORED)
        # A row's first token is predicted by none of its own.
        side_by_side[moved(batch, rows, places + 1)] = labels[rows, places + 1]
        labels = side_by_side
    tokens = torch.tensor(batch.step_tokens, device=labels.device)
    output = model(**inputs, labels=labels, num_items_in_batch=tokens, use_cache=False)
    loss: Tensor = output.loss
    if (balance := getattr(output, "aux_loss", None)) is None:
        return loss
    # What balances experts is no mean over answer tokens: the trainer adds it for the step as a whole.
    weight: Any = next(m.router_aux_loss_coef for m in model.modules() if hasattr(m, "router_aux_loss_coef"))
    return loss - weight * balance
