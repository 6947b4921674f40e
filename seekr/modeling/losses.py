"""The logits of answer tokens, and losses over them: cross-entropy to the labels and to a teacher's distribution."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from seekr.errors import InputError
from seekr.modeling.precision import full_precision


@full_precision()
def logit_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, shift: bool = True
) -> Tensor:
    """Cross-entropy of the student to the teacher's distribution, mean over all answer tokens of the batch, in nats.

    Args:
        student_logits: [samples, length, vocabulary]; the loss is differentiable in it.
        teacher_logits: [samples, length, vocabulary].
        labels: [samples, length], −100 = not an answer token.
        shift: True = at the positions that predict the answer tokens; False = at the answer tokens' own positions, as
            the released code has it.

    Returns:
        Tensor[], float32.

    Raises:
        InputError: if the shapes differ or no token is an answer token.

    Source: SEEKR, arXiv 2411.06171 (logit distillation); Hinton et al., arXiv 1503.02531.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:2] != labels.shape:
        raise InputError(
            f"student_logits {list(student_logits.shape)}, teacher_logits {list(teacher_logits.shape)} and labels "
            f"{list(labels.shape)} must agree in samples, length and vocabulary"
        )
    rows, positions = answer_positions(labels, shift=shift)
    if not len(rows):
        raise InputError("labels hold no answer token (all are -100); there is nothing to distil")
    student = student_logits[rows, positions].float().log_softmax(dim=-1)
    teacher = teacher_logits[rows, positions].float().softmax(dim=-1)
    return -(teacher * student).sum(dim=-1).mean()


def answer_positions(labels: Tensor, *, shift: bool = True) -> tuple[Tensor, Tensor]:
    """(rows, positions) of the logits that belong to the answer tokens of `labels` [samples, length], row by row.

    A first token that is an answer token is predicted by no position and left out, with `shift` or without, so that
    both forms weigh the same tokens.
    """
    rows, positions = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    return rows, positions if shift else positions + 1


def own_forward(model: nn.Module) -> Callable[..., Any]:
    """The forward of the outermost model of transformers, to which wrappers hand their arguments on.

    Not the one of its class: Liger puts another in its place.
    """
    return (transformer_of(model) or model).forward


def transformer_of(model: nn.Module) -> PreTrainedModel | None:
    """The outermost model of transformers, whatever wraps it; None where there is none."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


def logits_at(model: nn.Module, inputs: dict[str, Tensor], rows: Tensor, positions: Tensor) -> Tensor:
    """A forward's logits at chosen places, [places, vocabulary]; differentiable.

    No others are computed where the model takes a mask of places; where it takes positions alone (transformers before
    5.23), those of all rows at each of them are; where it takes neither, all.

    Args:
        model: a causal LM of transformers, or one that peft or the Trainer wrapped.
        inputs: its forward arguments, each [rows, length].
        rows, positions: [places], in any order.
    """
    forward = own_forward(model)
    if "logits_to_keep" not in signature(forward).parameters:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits[rows, positions]
    if hasattr(sys.modules[forward.__module__], "slice_logits_to_keep"):
        mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        mask[rows, positions] = torch.ones_like(rows, dtype=torch.bool)  # a number would be a copy to the device
        logits = model(**inputs, use_cache=False, logits_to_keep=mask).logits
        order = mask.flatten().cumsum(0).view_as(mask) - 1
        return logits[order[rows, positions]]
    columns, places = positions.unique(return_inverse=True)
    logits = model(**inputs, use_cache=False, logits_to_keep=columns).logits
    return logits[rows, places]


@full_precision()
def answer_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, places: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Σ over rows of weight · Σ over answer tokens of the cross-entropy, in nats; Tensor[], float32.

    Args:
        logits: [answer tokens, vocabulary], at the `answer_positions` of labels.
        labels: [rows, length]; weights: [rows].
        places: these positions, where they are known; else the device is waited for.
    """
    rows, positions = answer_positions(labels) if places is None else places
    losses = functional.cross_entropy(logits.float(), labels[rows, positions + 1], reduction="none")
    return (losses * weights[rows]).sum()


@dataclass(frozen=True, slots=True)
class TopLogits:
    """A teacher's distributions at the answer tokens of one sample: its largest entries, the rest as one bucket.

    Attributes:
        ids: [answer tokens, k], vocabulary entries.
        log_probs: [answer tokens, k].
    """

    ids: Tensor
    log_probs: Tensor

    @classmethod
    @full_precision()
    def of_logits(cls, logits: Tensor, k: int, dtype: torch.dtype) -> TopLogits:
        """The k largest entries of logits [answer tokens, vocabulary]; all of them if k is larger."""
        top = logits.float().log_softmax(dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
        return cls(top.indices.to(torch.int32), top.values.to(dtype))

    @full_precision()
    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Cross-entropy of a student to the teacher over (k entries + rest), [answer tokens]; logits as above."""
        logits = logits.float()
        ids = self.ids.to(logits.device).long()
        teacher = self.log_probs.to(logits.device).float()
        normalizer = logits.logsumexp(dim=-1, keepdim=True)
        top = logits.gather(-1, ids)
        loss = -(teacher.exp() * (top - normalizer)).sum(dim=-1)
        if ids.shape[-1] == logits.shape[-1]:
            return loss
        # The student's rest is summed over its own entries: 1 − Σ top would cancel to nothing in float32.
        rest = logits.scatter(-1, ids, float("-inf")).logsumexp(dim=-1) - normalizer.squeeze(-1)
        return loss - (1 - teacher.exp().sum(dim=-1)).clamp(min=0) * rest

    @full_precision()
    def divergence(self, logits: Tensor) -> Tensor:
        """KL(teacher || student) over (k entries + rest), [answer tokens], 0 to rounding where both agree."""
        teacher = self.log_probs.to(logits.device).float()
        entropy = -(teacher.exp() * teacher).sum(dim=-1)
        if teacher.shape[-1] < logits.shape[-1]:
            rest = (1 - teacher.exp().sum(dim=-1)).clamp(min=0)
            entropy -= rest.xlogy(rest)
        return self.cross_entropy(logits) - entropy
