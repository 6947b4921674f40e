"""Fine-tune a language model on tasks that arrive one after another, without losing the earlier ones."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr import methods
    from seekr.attention import (
        attention_distillation_loss,
        measure_change,
        measure_sensitivity,
    )
    from seekr.attention.heads import select_heads
    from seekr.data import Task
    from seekr.modeling.losses import logit_distillation_loss
    from seekr.runs.learn import learn
    from seekr.runs.run import Run
    from seekr.scoring import trace_metrics

__all__ = [
    "Run",
    "Task",
    "attention_distillation_loss",
    "learn",
    "logit_distillation_loss",
    "measure_change",
    "measure_sensitivity",
    "methods",
    "select_heads",
    "trace_metrics",
]

_HOMES = {
    "Run": "seekr.runs.run",
    "Task": "seekr.data",
    "attention_distillation_loss": "seekr.attention",
    "learn": "seekr.runs.learn",
    "logit_distillation_loss": "seekr.modeling.losses",
    "measure_change": "seekr.attention",
    "measure_sensitivity": "seekr.attention",
    "select_heads": "seekr.attention.heads",
    "trace_metrics": "seekr.scoring",
}

try:
    __version__ = version("seekr-continual")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, and `seekr --help` needs neither.
    if name == "methods":
        return import_module("seekr.methods")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'seekr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
