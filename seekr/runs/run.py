"""A run, opened from its folder: its scores, its stages, and how far it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seekr.config.identity import method_as_kept_now
from seekr.config.schema import Config, make_config, resolve_paths
from seekr.disk import read_json
from seekr.errors import InputError
from seekr.runs.folder import finished_stages, has_weights, stage_name, working_folder

if TYPE_CHECKING:
    from torch import Tensor

    from seekr.memory.reader import Memory
    from seekr.scoring import ScoreMatrix


@dataclass(frozen=True)
class Stage:
    """A finished stage on disk."""

    folder: Path

    @property
    def name(self) -> str:
        return stage_name(self.folder)

    @property
    def model(self) -> Path | None:
        """The folder of the model (or adapter) and tokenizer; None for a skill, or where keep_stages removed it."""
        return self.folder / "model" if has_weights(self.folder) else None

    @property
    def heads(self) -> dict[int, list[int]]:
        """Chosen heads, layer -> heads; empty where the method chooses none."""
        path = self.folder / "heads.json"
        return {int(layer): heads for layer, heads in read_json(path).items()} if path.is_file() else {}

    @property
    def importance(self) -> dict[str, Tensor]:
        """Tables of [layers, heads] by name: sensitivity, change, importance; empty where nothing was measured."""
        from safetensors.torch import load_file

        path = self.folder / "importance.safetensors"
        return load_file(path) if path.is_file() else {}

    @property
    def memory(self) -> Memory | None:
        """What is kept of the task; None where the method keeps nothing."""
        from seekr.memory.reader import Memory

        folder = self.folder / "memory"
        return Memory.open(folder, verify=False) if folder.is_dir() else None


@dataclass(frozen=True)
class TaskStatus:
    """How far a task is. `step` is the optimizer step of the newest complete checkpoint of a task in training."""

    name: str
    state: Literal["done", "stopped", "waiting"]
    step: int | None = None

    def __str__(self) -> str:
        return f"stopped at step {self.step}" if self.state == "stopped" else self.state


def seed_folders(folder: Path) -> list[Path]:
    """The runs that `seeds` left in a folder: seed-0, seed-1, ..., in the order of their numbers."""
    numbers = {path.parent: path.parent.name.removeprefix("seed-") for path in folder.glob("seed-*/run.json")}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda it: int(numbers[it]))


def open_runs(folder: Path) -> list[Run]:
    """The run in a folder, or those of its seeds. Raises InputError where there is none."""
    own = (folder / "run.json").is_file()
    return [Run(path) for path in ([] if own else seed_folders(folder)) or [folder]]


class Run:
    """A run folder. Raises InputError where there is none."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            if seeds := seed_folders(self.folder):
                names = ", ".join(map(str, seeds))
                raise InputError(f"{self.folder}: holds a run of each of several seeds; give one of {names}")
            raise InputError(f"{self.folder}: no run here (run.json is missing); give the output_dir of `seekr learn`")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json."""
        content = read_json(self.folder / "run.json")
        if not isinstance(content, dict) or "config" not in content:
            raise InputError(f"{self.folder / 'run.json'}: not the record of a run")
        return content

    @property
    def config(self) -> Config:
        """The resolved configuration; its output_dir is this folder, wherever it was moved to."""
        raw = self.record["config"] | {"output_dir": str(self.folder.absolute())}
        raw["method"] = method_as_kept_now(raw["method"])
        return resolve_paths(make_config(raw, str(self.folder / "run.json")), self.folder.absolute())

    @property
    def scores(self) -> ScoreMatrix:
        """The score matrix as far as it was measured."""
        from seekr.scoring import ScoreMatrix

        path = self.folder / "scores.json"
        if not path.is_file():
            raise InputError(f"{self.folder}: nothing was scored yet; `seekr evaluate {self.folder}` does")
        try:
            return ScoreMatrix.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: broken JSON: {error.msg}; delete it and run evaluate") from None

    @property
    def stages(self) -> list[Stage]:
        """The finished stages in their order."""
        return [Stage(folder) for folder in finished_stages(self.folder)]

    def status(self) -> list[TaskStatus]:
        """How far each stage is, in their order; `joint` has one stage for all tasks."""
        from seekr.data.task_data import JOINT
        from seekr.training.checkpoints import checkpoint_step, newest_complete_checkpoint

        done = [stage.name for stage in self.stages]
        joint = self.record["config"]["method"].get("name") == JOINT
        tasks = self.record["config"]["tasks"]
        names = [JOINT] if joint else [t["name"] for t in sorted(tasks, key=lambda t: t.get("learn", True))]
        result = []
        for index, name in enumerate(names):
            if name in done:
                result.append(TaskStatus(name, "done"))
                continue
            checkpoint = newest_complete_checkpoint(working_folder(self.folder, index, name))
            step = checkpoint_step(checkpoint) if checkpoint else None
            result.append(TaskStatus(name, "stopped" if step is not None else "waiting", step))
        return result
