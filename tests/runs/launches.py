"""Runs by the command line on one process and on several, and what is compared of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from preloaded import Program, ended
from safetensors.torch import load_file
from torch import Tensor
from two_processes import free_port

from seekr import Run

METHOD = {"name": "seekr", "replay_ratio": 0.5, "query_budget": 4, "attention_weight": 10}
TRAINING = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2, "save_steps": 2}
"""Steps of 8 rows: on two processes 4 each."""


def config_of(model: Path, data: Path, output_dir: Path, tasks: str = "abc", **more: Any) -> dict[str, Any]:
    """A run of seekr; 7 rows of each task are kept, which two processes cannot share evenly."""
    return {
        "model": str(model),
        "tasks": [
            {"name": n, "train": str(data / n / "train.json"), "test": str(data / n / "test.json"), "max_new_tokens": 3}
            for n in tasks
        ],
        "method": METHOD,
        "training": TRAINING,
        "output_dir": str(output_dir),
        **more,
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def start(
    *configs: Path,
    command: str = "learn",
    words: Sequence[str] = (),
    folders: Sequence[Path | None] | None = None,
    program: Sequence[str] = ("-m", "seekr"),
    **environment: str,
) -> list[Program]:
    """`seekr COMMAND` on as many processes as there are configurations, which are the same one but in odd tests, as
    are the `folders` that they are started in.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(configs))}
    shared |= {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }
    return [
        Program(
            [*program, command, str(config), *words],
            os.environ | (shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if len(configs) > 1 else {}),
            folder,
        )
        for rank, (config, folder) in enumerate(zip(configs, folders or [None] * len(configs), strict=True))
    ]


def learn(*configs: Path, **more: Any) -> list[tuple[int, str]]:
    """Exit status and stderr of each process."""
    return ended(start(*configs, **more))


def distances(one: Path, other: Path, model: Path) -> list[float]:
    """‖w − w'‖ over ‖w − w_start‖ after each task, w_start being the base model."""
    base = _weights(model)
    found = []
    for first, second in zip(Run(one).stages, Run(other).stages, strict=True):
        w, v = _weights(first.model), _weights(second.model)
        assert w.keys() == v.keys()
        apart, moved = (_norm([w[name] - others[name] for name in w]) for others in (v, base))
        found.append(apart / moved)
    return found


def _weights(folder: Path | None) -> dict[str, Tensor]:
    assert folder is not None
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())
