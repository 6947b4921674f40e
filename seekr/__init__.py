"""Fine-tune a language model on tasks that arrive one after another, without losing the earlier ones."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr import methods as methods
    from seekr.attention.change import measure_change as measure_change
    from seekr.attention.distillation import attention_distillation_loss as attention_distillation_loss
    from seekr.attention.heads import select_heads as select_heads
    from seekr.attention.sensitivity import measure_sensitivity as measure_sensitivity
    from seekr.config.schema import load_config as load_config
    from seekr.data.task import Task as Task
    from seekr.errors import InputError as InputError
    from seekr.errors import RunError as RunError
    from seekr.methods import Method as Method
    from seekr.modeling.losses import logit_distillation_loss as logit_distillation_loss
    from seekr.planning.plan import make_plan
    from seekr.report.comparison import compare as compare
    from seekr.runs.learn import evaluate as evaluate
    from seekr.runs.learn import learn as learn
    from seekr.runs.run import Run as Run
    from seekr.scoring.trace import trace_metrics as trace_metrics
    from seekr.tuning import tune as tune

    plan = make_plan

_HOMES = {
    "InputError": "seekr.errors",
    "Method": "seekr.methods",
    "Run": "seekr.runs.run",
    "RunError": "seekr.errors",
    "Task": "seekr.data.task",
    "attention_distillation_loss": "seekr.attention.distillation",
    "compare": "seekr.report.comparison",
    "evaluate": "seekr.runs.learn",
    "learn": "seekr.runs.learn",
    "load_config": "seekr.config.schema",
    "logit_distillation_loss": "seekr.modeling.losses",
    "measure_change": "seekr.attention.change",
    "measure_sensitivity": "seekr.attention.sensitivity",
    "plan": "seekr.planning.plan",
    "select_heads": "seekr.attention.heads",
    "trace_metrics": "seekr.scoring.trace",
    "tune": "seekr.tuning",
}
_NAMES_THERE = {"plan": "make_plan"}
__all__ = ["methods", *_HOMES]

try:
    __version__ = version("seekr-continual")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, and `seekr --help` needs neither.
    if name == "methods":
        return import_module("seekr.methods")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), _NAMES_THERE.get(name, name))
        globals()[name] = value
        return value
    raise AttributeError(f"module 'seekr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
