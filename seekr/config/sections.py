"""Which keys each section of a configuration has, for messages about one that was given in the wrong place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module

from seekr.config.training_arguments import REFUSED
from seekr.other_names import HOMES, REFUSALS


def _fields(module: str, name: str) -> Callable[[], set[str]]:
    """Those of a dataclass, which is imported once they are asked for."""
    return lambda: {item.name for item in fields(getattr(import_module(module), name))}


def _method() -> set[str]:
    from seekr.methods import METHODS

    return {item.name for kind in METHODS.values() for item in fields(kind)}


def know_sections(top: set[str]) -> None:
    """Tells `other_names` of all sections, `top` being the keys of the top level."""
    HOMES.update({"": lambda: top, "training": _fields("transformers", "TrainingArguments")})
    HOMES.update(
        {"tasks.N": _fields("seekr.data.task", "Task"), "method": _method, "lora": _fields("peft", "LoraConfig")}
    )
    REFUSALS.update(REFUSED)
