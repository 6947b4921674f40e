"""Transformers' training arguments as the trainer of a task needs them."""

from __future__ import annotations

import copy

from transformers import TrainingArguments

from seekr.errors import InputError


def own_arguments(args: TrainingArguments) -> TrainingArguments:
    """A copy with what this trainer needs: the caller's object stays as it is."""
    if args.n_gpu > 1:
        args._n_gpu = 1  # one process drives one device; more devices come by `accelerate launch`
    args = copy.copy(args)
    args.logging_nan_inf_filter = False
    for name in ("gradient_checkpointing", "activation_checkpointing"):  # one feature, renamed on the way
        if getattr(args, name, False):
            options = dict(getattr(args, f"{name}_kwargs", None) or {})
            if options.get("use_reentrant"):
                raise InputError(
                    f"training.{name}_kwargs: use_reentrant loses gradients; leave it out or set it to false"
                )
            setattr(args, f"{name}_kwargs", options | {"use_reentrant": False})
    return args
