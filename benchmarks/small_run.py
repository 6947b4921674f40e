"""A run that takes seconds, for what is measured of a run's files: a random model of two layers, tasks of 16 rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from random_model import write_random_model

from seekr.builtin.tasks import builtin_rows

TASKS = ("sort", "upper", "add")


def write_configuration(folder: Path) -> Path:
    """`config.json` of a run in `run/`, with its model and the rows of `TASKS`: a checkpoint every step, no GPU."""
    write_random_model(folder / "model", hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    training = {"learning_rate": 0.01, "per_device_train_batch_size": 4, "num_train_epochs": 1, "save_steps": 1}
    config = {"model": str(folder / "model"), "output_dir": str(folder / "run"),
              "tasks": [write_task(folder, name) for name in TASKS],
              "method": {"name": "seekr", "replay_ratio": 0.2, "query_budget": 4, "layer_budget": 2, "head_budget": 2},
              "training": training | {"use_cpu": True}}  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def write_task(folder: Path, name: str) -> dict[str, Any]:
    """The rows of one of the built-in tasks in `data/NAME`, and the task as a configuration has it."""
    task: dict[str, Any] = {"name": name, "separator": "", "max_new_tokens": 3}
    for split, count in (("train", 16), ("test", 3)):
        place = folder / "data" / name / f"{split}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(builtin_rows(name, split, seed=0, count=count)))
        task[split] = str(place)
    return task
