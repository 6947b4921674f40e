"""What the tests of runs share: small settings, a way to stop a run, and the bytes of what it left."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

TRAINING = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 1, "save_steps": 2}
SEEKR = {"name": "seekr", "replay_ratio": 0.2, "query_budget": 4, "attention_weight": 10}


class Stop(Exception):
    """What a test throws into a run to stop it."""


class StopAt(TrainerCallback):
    """Raises behind an optimizer step of the n-th task that is trained (from 0)."""

    def __init__(self, task: int, step: int) -> None:
        self.task, self.step, self.trained = task, step, -1

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trained += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (self.trained, state.global_step) == (self.task, self.step):
            raise Stop


def digests(run: Path, pattern: str = "stages/**/*.safetensors") -> dict[str, str]:
    """sha256 of the files of a run that match."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob(pattern))
        if path.is_file()
    }
