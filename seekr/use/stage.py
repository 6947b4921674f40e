"""The stage of a run that is used: which one, its weights, and its model on this machine's device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seekr.config.schema import Config
from seekr.errors import InputError, RunError, nearest
from seekr.methods import Method, make_method
from seekr.modeling.fingerprints import fingerprint_model
from seekr.modeling.loading import is_adapter, load_config_of
from seekr.runs.base_model import base_model
from seekr.runs.lost_stages import check_begun, lost
from seekr.runs.run import Run, Stage
from seekr.runs.standing import check_weights


def choose(run: Run, name: str | None) -> tuple[Stage, Path]:
    """The stage of a name, None = the newest of a finished run, and its `model` folder, as it was written.

    Raises InputError where it is not.
    """
    try:
        stages = run.stages
    except RunError as error:  # one in between is missing
        raise InputError(str(error)) from None
    names = [stage.name for stage in stages]
    check_begun(run.folder)
    if name is None and not run.finished:
        learned = (
            f"{run.folder}: {len(stages)} of its {run.planned} tasks are learned; finish it with its own `seekr learn` "
            "command"
        )
        raise InputError(f"{lost(run.folder) or learned}, or say --stage {names[-1]}")
    if name is not None and name not in names:
        raise InputError(f"--stage {name}: {run.folder} has no finished stage of that name; {nearest(name, names)}")
    if name is None:
        stage = next((stage for stage in reversed(stages) if stage.trained), stages[-1])
    else:
        stage = stages[names.index(name)]
    if stage.model is None:
        raise InputError(f"{stage.folder}: {_why_without_weights(stage, stages)}")
    check_weights(run.folder, stage.folder)
    return stage, stage.model


def load(run: Run, weights: Path, *, dtype: str | None = None) -> tuple[Any, Method]:
    """The model of a stage's `model` folder as it answers, frozen, on the CPU; in the run's dtype if none is given.

    Raises InputError where it cannot be loaded, or is an adapter and its base is not the one that it was trained on.
    """
    config = run.config
    method, dtype = make_method(config.method), dtype or config.dtype
    if is_adapter(weights):
        try:
            load_config_of(config.model)
        except InputError as error:
            raise InputError(
                f"{error}; {run.folder} has adapters on it: put it back, or give the run's own `seekr learn` command "
                "its new place (model=PATH)"
            ) from None
    model = method.form.load(config.model, weights, dtype=dtype)
    if is_adapter(weights):
        same = dtype == config.dtype
        base = fingerprint_model(model) if same else base_model(config.model, config.dtype).read()
        if base != run.record["model_fingerprint"]:
            raise InputError(f"model: {config.model} is not what {run.folder} was trained on; put that one back")
    return model, method


def best_device(config: Config) -> torch.device:
    """Where a model answers: this machine's accelerator, unless there is none or the run was set to use the CPU."""
    found = None if config.training.get("use_cpu") else torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def _why_without_weights(stage: Stage, stages: list[Stage]) -> str:
    if not stage.trained:
        return "a skill that the base model already had; its model is the base itself"
    there = ", ".join(other.name for other in stages if other.model is not None)
    if stage == [other for other in stages if other.trained][-1]:
        again = f"bring them back from a copy, or learn it again by --redo {stage.name}"
        return f"its weights are missing; {again}" + (f"; there are those of {there}" if there else "")
    return "its weights are not kept (keep_stages)" + (f"; there are those of {there}" if there else "")
