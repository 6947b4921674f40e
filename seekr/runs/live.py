"""Live logging: one run in each logger of `report_to`, over all tasks, whatever number of starts it takes."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.disk.files import write_atomically
from seekr.disk.regular import read_bytes
from seekr.distributed.processes import is_main
from seekr.runs.folder import finished_stages
from seekr.runs.prepare import RunSpec

ONE_RUN = ("tensorboard", "trackio", "wandb")
"""Loggers that get one run. Others are the Trainer's, which begins one for each task."""


class LiveLog(TrainerCallback):
    """Writes optimizer steps, counted over all tasks, and scores to the loggers that a run names.

    Nothing is opened before something is written, and by the main process alone. A run that is resumed goes on in the
    same run of each logger; what TensorBoard had of later steps, before the run was stopped, it drops.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.run, self.config, self.arguments = spec.run, spec.config, spec.arguments
        names = set(self.arguments.report_to or []) & set(ONE_RUN)
        self.names = sorted(names) if is_main() else []
        self.every = int(spec.training.get("logging_steps", 1))
        self._before = 0
        self._trackers: dict[str, GeneralTracker] = {}
        self._forgot = False

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.names:
            self._before = steps_of(finished_stages(self.run))
        if not self._forgot and "tensorboard" in self.names:
            self._open("tensorboard", self._before + state.global_step + 1)
        self._forgot = True

    def write(self, line: dict[str, Any]) -> None:
        """A line of the log of the task in training."""
        if (step := self._before + line["step"]) % self.every == 0:
            self._log(dict(values_of(line)), step)

    def score(self, name: str, value: float, row: int) -> None:
        """A score of the base model (row −1), or after a task."""
        if self.names:
            self._log({name: value}, steps_of(finished_stages(self.run)[: row + 1]))

    def close(self) -> None:
        while self._trackers:
            self._trackers.popitem()[1].finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        for name in self.names:
            if name not in self._trackers:
                self._open(name)
            self._trackers[name].log(values, step=step)

    def _open(self, name: str, first: int | None = None) -> None:
        """Opens a logger, again perhaps; `first`: the first step that is to come, which TensorBoard may have."""
        if name in self._trackers:
            self._trackers.pop(name).finish()
        tracker = LOGGER_TYPE_TO_CLASS[name](*self._names(name), **self._settings(name, first))
        tracker.main_process_only = False  # else it asks accelerate, whose device would be settled by that
        tracker.start()
        self._trackers[name] = tracker

    def _names(self, name: str) -> tuple[str, ...]:
        """What a tracker of accelerate's calls `run_name`, the project but for TensorBoard, and its folder."""
        if name == "tensorboard":
            return self.called, str(self.run / "logs")
        return (os.environ.get(f"{name.upper()}_PROJECT") or self.arguments.project,)

    def _settings(self, name: str, first: int | None) -> dict[str, Any]:
        if name == "tensorboard":
            return {"purge_step": first}
        common = {"name": self.called, "config": self.config.model_dump(mode="json"), "resume": "allow"}
        if name == "wandb":
            (self.run / "logs").mkdir(exist_ok=True)
            return common | {"id": self._wandb_id(), "dir": str(self.run / "logs")}
        given = {"space_id": self.arguments.trackio_space_id, "bucket_id": self.arguments.trackio_bucket_id}
        return common | {"private": self.arguments.hub_private_repo} | given

    @property
    def called(self) -> str:
        """The name of the run: of its folder, and of the one above where it is that of a seed."""
        seed = self.run.name.startswith("seed-")
        return self.arguments.run_name or (f"{self.run.parent.name}-{self.run.name}" if seed else self.run.name)

    def _wandb_id(self) -> str:
        """By which Weights & Biases knows the run again."""
        path = self.run / "logs" / "wandb-id"
        if not path.is_file():
            write_atomically(path, uuid.uuid4().hex[:12])
        return read_bytes(path).decode()


def steps_of(stages: list[Path]) -> int:
    """Optimizer steps of finished stages, by the last line of each log; a skill has none."""
    logs = [stage / "log.jsonl" for stage in stages]
    return sum(json.loads(read_bytes(log).split(b"\n")[-2])["step"] for log in logs if log.is_file())


def values_of(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What is shown of a line of the log: its numbers, those of a kind of step under the name of the kind."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{line['kind']}/{name}/{part}", share) for part, share in value.items())
        elif name in ("learning_rate", "grad_norm") and value is not None:
            yield name, value
        elif name not in ("step", "kind") and isinstance(value, int | float):
            yield f"{line['kind']}/{name}", value
