"""Fields of transformers' TrainingArguments and peft's LoraConfig as a user gives them: checked, and built."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from seekr.errors import InputError, reason, said_by
from seekr.other_names import meant

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import TrainingArguments

REFUSED = {
    "output_dir": "it is a key of the top level: output_dir: FOLDER",
    "seed": "it is a key of the top level: seed: 0",
    "data_seed": "the order of the rows follows the top-level key seed",
    "save_only_model": "a run could not be resumed without the optimizer's state; remove it",
    "ignore_data_skip": "a resumed run would see rows twice; remove it",
    "auto_find_batch_size": "it changes the batch size in the middle of a run; set per_device_train_batch_size",
    "load_best_model_at_end": "a stage is the model after its last step; remove it",
    "resume_from_checkpoint": "the same command resumes by itself; remove it",
    "label_smoothing_factor": "the losses are the method's own; remove it",
    "train_sampling_strategy": "the order of the rows is fixed by the seed; remove it",
    "dataloader_drop_last": "every row is trained on; remove it",
    "eval_strategy": "tasks are scored after each stage, see the top-level key cells; remove it",
    "hub_token": "it would be written into the run's folder; set HF_TOKEN in the environment, and remove it",
    "push_to_hub": "push a finished stage's model folder instead; remove it",
    "eval_on_start": "the top-level key cells: all scores the model before its first task; remove it",
    "eval_steps": "tasks are scored after each stage, see the top-level key cells; remove it",
    "eval_delay": "tasks are scored after each stage, see the top-level key cells; remove it",
    "metric_for_best_model": "a stage is the model after its last step; a task's metric is its own key; remove it",
    "remove_unused_columns": "rows reach the model as tokens, without columns; remove it",
    "ddp_timeout": "the processes of a launch wait two hours for each other; remove it",
    "save_strategy": "a run is resumed from checkpoints in steps; set save_steps instead",
}
"""Fields that would break a run or do nothing in it, and what to do instead."""

IN_FORCE: dict[str, tuple[Any, ...]] = {
    "save_strategy": ("steps",),
    "eval_strategy": ("no", False),  # what YAML makes of a bare no
    "train_sampling_strategy": ("random",),
    "label_smoothing_factor": (0,),
    **dict.fromkeys(("resume_from_checkpoint", "metric_for_best_model", "hub_token"), (None,)),
    **dict.fromkeys(("remove_unused_columns", "save_only_model", "ignore_data_skip", "auto_find_batch_size"), (False,)),
    **dict.fromkeys(("load_best_model_at_end", "dataloader_drop_last", "push_to_hub", "eval_on_start"), (False,)),
}
"""Values of those fields that ask for what is done anyway: they are accepted, and left out."""

LOWEST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "save_steps": 1,
    "save_total_limit": 1,
    "logging_steps": 1,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "dataloader_num_workers": 0,
}

HARMLESS = frozenset({
    # The rows of a step count, not how they are shared out: RunSpec.step_rows.
    "per_device_train_batch_size", "gradient_accumulation_steps",
    "log_level", "log_level_replica", "log_on_each_node", "logging_strategy", "logging_steps", "logging_first_step",
    "logging_nan_inf_filter", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id",
    "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen",
    "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint", "per_device_eval_batch_size",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "skip_memory_metrics", "torch_empty_cache_steps", "debug", "use_cpu",
    "local_rank",
})  # fmt: skip
"""Fields that a run may be resumed with other values of: its weights do not depend on them."""


def check_training(training: dict[str, Any]) -> dict[str, Any]:
    """The fields of `training`, with values of their types ("1e-5" becomes 1e-05). Raises InputError."""
    from transformers import TrainingArguments
    from transformers.integrations import get_available_reporting_integrations

    training = {key: value for key, value in training.items() if value not in IN_FORCE.get(key, ())}
    for key, why in REFUSED.items():
        if key in training:
            raise InputError(f"training.{key} cannot be set here: {why}")
    checked = _check_fields("training", training, TrainingArguments, refused=set(REFUSED))
    for key, lowest in LOWEST.items():
        if isinstance(checked.get(key), int | float) and not checked[key] >= lowest:
            raise InputError(f"training.{key} must be at least {lowest}, not {checked[key]!r}")
    if "num_train_epochs" in checked and not checked["num_train_epochs"] > 0:
        raise InputError(f"training.num_train_epochs must be above 0, not {checked['num_train_epochs']!r}")
    for key, value in checked.items():
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"training.{key} must be a finite number, not {value!r}")
    if (steps := checked.get("max_steps", -1)) < 1 and steps != -1:  # -1 is the default: no limit
        raise InputError(f"training.max_steps must be at least 1, not {steps!r}")
    for key in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if isinstance(checked.get(key), dict) and checked[key].get("use_reentrant"):
            raise InputError(f"training.{key}.use_reentrant must be false: reentrant checkpointing loses gradients")
    arguments = training_arguments(checked, output_dir=Path("unused"), seed=0)
    for name in arguments.report_to or []:
        if name not in get_available_reporting_integrations():
            raise InputError(
                f"training.report_to: {name!r} is unknown or not installed (pip install 'seekr-continual[logging]' has "
                "tensorboard, trackio and wandb); install it, or say none"
            )
    _try_out(arguments)
    return checked


def _try_out(arguments: TrainingArguments) -> None:
    """Makes the optimizer and the schedule of one number: their settings are looked at nowhere else before training."""
    import torch
    from transformers import Trainer, get_scheduler
    from transformers.utils import is_liger_kernel_available

    if arguments.use_liger_kernel and not is_liger_kernel_available():
        raise InputError("training.use_liger_kernel: liger-kernel is not installed; install it, or leave the key out")
    on_cpu = arguments.use_cpu or not torch.accelerator.is_available()
    if arguments.use_liger_kernel and on_cpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError("training.use_liger_kernel: its kernels need a GPU, and this run has none; leave the key out")
    if arguments.optim_target_modules:  # such an optimizer looks for these modules in the model
        return
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, cast(Any, torch.nn.Identity()))
        plain = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        if not plain or options.keys() & {"params", "model", "optimizer_dict"}:
            return
        get_scheduler(
            arguments.lr_scheduler_type,
            kind([torch.nn.Parameter(torch.zeros(1))], **options),
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=cast("dict[str, Any] | None", arguments.lr_scheduler_kwargs),
        )
    except Exception as error:
        raise InputError(f"training: {said_by(error)}") from None


def training_arguments(training: dict[str, Any], *, output_dir: Path, seed: int, **more: Any) -> TrainingArguments:
    """Transformers' own object for one task. Raises InputError with what transformers finds wrong."""
    from transformers import TrainingArguments

    fixed = {"output_dir": str(output_dir), "seed": seed, "save_strategy": "steps", "remove_unused_columns": False}
    defaults = {
        "report_to": "none",
        "disable_tqdm": True,
        "save_total_limit": 2,
        "ddp_find_unused_parameters": False,  # every loss reaches every weight
    }
    environment = dict(os.environ)
    try:
        return TrainingArguments(**{**defaults, **training, **more, **fixed})
    except Exception as error:  # every field is read in a way of its own, some as files
        raise InputError(f"training: {said_by(error)}") from None
    finally:
        # torch_compile leaves its backend in the environment, which would compile every later run of this process.
        for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
            os.environ.pop(name, None)
            os.environ.update({name: environment[name]} if name in environment else {})


def weight_changing(training: dict[str, Any]) -> dict[str, Any]:
    """The part of `training` that belongs to the identity of a run; a default that is spelt out counts as left out."""
    from transformers import TrainingArguments

    made = {it.name: it.default_factory() for it in fields(TrainingArguments) if it.default_factory is not MISSING}
    defaults = {it.name: it.default for it in fields(TrainingArguments)} | made
    return {
        key: value if isinstance(value, int | float | str | bool | list | dict) else str(value)
        for key, value in sorted(training.items())
        if key not in HARMLESS and value != defaults[key]
    }


def check_lora(lora: dict[str, Any] | None) -> LoraConfig | None:
    """peft's own object of the `lora` settings. Raises InputError."""
    if lora is None:
        return None
    from peft import LoraConfig

    reserved = {"task_type", "peft_type", "inference_mode", "base_model_name_or_path", "auto_mapping", "peft_version"}
    for key in sorted(reserved & lora.keys()):
        raise InputError(f"lora.{key} cannot be set here: seekr sets it itself; remove it")
    checked = _check_fields("lora", lora, LoraConfig, refused=reserved)
    if not checked.get("r", 8) >= 1:
        raise InputError(f"lora.r must be at least 1, not {checked['r']}")
    if not 0 <= checked.get("lora_dropout", 0.0) < 1:
        raise InputError(f"lora.lora_dropout must be at least 0 and below 1, not {checked['lora_dropout']}")
    try:
        return LoraConfig(task_type="CAUSAL_LM", **checked)
    except Exception as error:  # every field is read in a way of its own, some as files
        raise InputError(f"lora: {said_by(error)}") from None


def _check_fields(where: str, given: dict[str, Any], owner: type, refused: set[str]) -> dict[str, Any]:
    known = {field.name for field in fields(owner) if field.init}
    hints = get_type_hints(owner)
    checked = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {str(key)[:60]!r}; {meant(str(key), known - refused, where)}")
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{where}.{key}: {reason(error)}, not {str(value)[:80]!r}") from None
        if not _same_truths(value, checked[key]):
            raise InputError(f"{where}.{key}: must be a number, not {str(value)[:80].lower()}")
    return checked


def _same_truths(given: Any, checked: Any) -> bool:
    """Whether every true and false that was given is one still: pydantic makes 1 and 0 of them where a number goes."""
    if isinstance(given, bool):
        return checked is given
    if isinstance(given, Mapping) and isinstance(checked, Mapping):
        return all(_same_truths(value, checked.get(key)) for key, value in given.items())
    if isinstance(given, list | tuple) and isinstance(checked, list | tuple):
        return all(map(_same_truths, given, checked))
    return True
