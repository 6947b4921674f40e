"""Which keys each section of a configuration has, for messages about one that was given in the wrong place."""

from __future__ import annotations

from dataclasses import fields

from seekr.config.training_arguments import REFUSED
from seekr.other_names import HOMES, REFUSALS


def _training() -> set[str]:
    from transformers import TrainingArguments

    return {item.name for item in fields(TrainingArguments)}


def _task() -> set[str]:
    from seekr.data.task import Task

    return {item.name for item in fields(Task)}


def _method() -> set[str]:
    from seekr.methods import METHODS

    return {item.name for kind in METHODS.values() for item in fields(kind)}


def _lora() -> set[str]:
    from peft import LoraConfig

    return {item.name for item in fields(LoraConfig)}


def know_sections(top: set[str]) -> None:
    """Tells `other_names` of all sections, `top` being the keys of the top level."""
    HOMES.update({"": lambda: top, "training": _training, "tasks.N": _task, "method": _method, "lora": _lora})
    REFUSALS.update(REFUSED)
