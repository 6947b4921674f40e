"""What makes two runs the same one: compared whenever a command finds a run in its output folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from seekr.errors import InputError
from seekr.nested import as_in_yaml, first_difference

_SHOWN = 60
_SAID = {"step_rows": "training.per_device_train_batch_size × gradient_accumulation_steps × processes"}


def without_seed(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs share that differ only in their seed: the identity in run.json and the settings of the tasks.

    A folder "seed-N" in the path of rows drawn by the run's own seed N counts as the same in all of them. Where the
    eval rows are is left out: a run does not use them.
    """
    from seekr.data.task import Task

    settings = as_kept_now(record["identity"])
    seed = settings.pop("seed")
    defaults = {field.name: field.default for field in fields(Task)}
    tasks = {}
    for task in record["config"]["tasks"]:
        given = {key: value for key, value in task.items() if key != "eval" and value != defaults.get(key, MISSING)}
        for split in {"train", "test"} & given.keys():
            given[split] = re.sub(rf"(?<=/)seed-{seed}(?=/)", "seed-*", str(given[split]))
        tasks[task["name"]] = given
    return {**settings, "tasks": tasks}


def as_kept_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is kept now: of older runs it names the three factors of `step_rows`, and lacks settings of
    methods that came later."""
    settings = {**settings, "method": method_as_kept_now(settings["method"])}
    if "step_rows" in settings:
        return settings
    training = dict(settings.get("training", {}))
    rows, steps = training.pop("per_device_train_batch_size", 8), training.pop("gradient_accumulation_steps", 1)
    kept = {key: value for key, value in settings.items() if key != "processes"}
    return {**kept, "training": training, "step_rows": rows * steps * settings.get("processes", 1)}


def method_as_kept_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as `run.json` keeps them now: older runs, which replayed once an epoch, did not say so."""
    return {"replay_passes": None, **settings} if settings.keys() & {"replay_ratio", "pseudo_ratio"} else dict(settings)


def with_free(there: Mapping[str, Any], here: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    """The identity of the run that another goes on from, with the other's values of what may differ between them."""
    method = {key: value for key, value in there["method"].items() if key not in free}
    method |= {key: value for key, value in here["method"].items() if key in free}
    return {**there, "method": method, "training": here["training"], "step_rows": here["step_rows"]}


def difference_in_words(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first difference, such as "seed is 0 there and 1 here"; nothing where there is none."""
    difference = first_difference(there, json.loads(json.dumps(here)))  # as it will be read back: no tuples
    if difference is None:
        return ""
    key, old, new = difference
    key = key.removeprefix("run.").removeprefix("stage.")
    return f"{_SAID.get(key, key)} is {_short(old)} there and {_short(new)} here"


def compare(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises InputError naming the first difference between the run in `folder` and the one that is asked for."""
    if difference := difference_in_words(there, here):
        raise InputError(f"{folder} holds a different run: {difference}; choose another output_dir, or the old value")


def _short(value: Any) -> str:
    text = as_in_yaml(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
