"""A run, opened from its folder: the one reader of what a run leaves, for people and for reports.

A run that is still going on is read as far as it is. Every file is read when it is first asked for; one that is there
but cannot be read is an InputError, since a table made from half of the data would mislead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seekr.attention.weight import mean_drift
from seekr.config.identity import method_as_kept_now
from seekr.config.schema import Config, make_config, resolve_paths
from seekr.errors import InputError
from seekr.runs.folder import (
    check_run,
    find_runs,
    finished_stages,
    has_weights,
    run_or_seeds,
    stage_name,
    working_folder,
)
from seekr.runs.general_tasks import GeneralScore, read_general
from seekr.runs.grafted import Grafted, read_grafted
from seekr.runs.log import (
    EVALUATE,
    LogEntry,
    ScoredAnswer,
    read_answers,
    read_heads,
    read_importance,
    read_log,
    read_whole,
)
from seekr.runs.lost_stages import check_begun
from seekr.runs.own_code import check_code
from seekr.runs.record_schema import check_record, read_shape
from seekr.scoring.cells import JOINT
from seekr.scoring.matrix import ScoreMatrix

if TYPE_CHECKING:
    from seekr.memory.reader import Memory


def as_it_is(read: Callable[[], Any], _: Any) -> Any:
    """What `read` gives. `seekr.report.torn` has another way: something in place of a file that cannot be read."""
    return read()


@dataclass(frozen=True)
class Stage:
    """A finished stage on disk, whose files are read `by`, see `as_it_is`."""

    folder: Path
    by: Callable[[Callable[[], Any], Any], Any] = field(default=as_it_is, repr=False, compare=False)

    @property
    def name(self) -> str:
        return stage_name(self.folder)

    @property
    def model(self) -> Path | None:
        """The folder of the model (or adapter) and tokenizer; None for a skill, or where keep_stages removed it."""
        return self.folder / "model" if has_weights(self.folder) else None

    @property
    def index(self) -> int:
        """Its place among the stages of the run, from 0."""
        return int(self.folder.name.partition("-")[0])

    @cached_property
    def heads(self) -> dict[int, list[int]]:
        """Chosen heads, layer -> heads, ascending; empty where the method chooses none."""
        return self.by(lambda: read_heads(self.folder / "heads.json"), {})

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """Tables of [layers, heads] by name: sensitivity, change, drift, importance; empty where none was measured."""
        return self.by(lambda: read_importance(self.folder / "importance.safetensors", lambda: self.heads), {})

    @cached_property
    def log(self) -> tuple[LogEntry, ...]:
        """Its optimizer steps; none of a skill that the model already had."""
        return self.by(lambda: read_log(self.folder / "log.jsonl"), ())

    @property
    def trained(self) -> bool:
        """False for a skill that the model already had: it has no weights, and no log where those are gone."""
        log = self.folder / "log.jsonl"
        return self.model is not None or bool(self.log) or (log.is_file() and log.stat().st_size > 0)

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


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run of `find_runs(paths)`."""
    return [Run(folder) for folder in find_runs(paths)]


def open_runs(folder: Path) -> list[Run]:
    """The run in a folder, or those of its seeds. Raises InputError where there is none, or a seed is torn out."""
    return [Run(path) for path in run_or_seeds(folder)]


class Run:
    """A run folder. Raises InputError where there is none."""

    _by = staticmethod(as_it_is)

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._scores: tuple[tuple[int, int], ScoreMatrix] | None = None
        self._stages: dict[Path, Stage] = {}
        check_run(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json."""
        return read_shape(self.folder / "run.json")

    @property
    def config(self) -> Config:
        """The resolved configuration; its output_dir is this folder, wherever it was moved to.

        Raises InputError where it is not what was written, or names code that nobody here trusts: see `check_code`.
        """
        check_record(self.record, self.folder / "run.json")
        raw = self.record["config"] | {"output_dir": str(self.folder.absolute())}
        raw["method"] = method_as_kept_now(raw["method"])
        config = make_config(raw, str(self.folder / "run.json"))
        check_code(config, self.folder / "run.json")
        return resolve_paths(config, self.folder.absolute())

    @property
    def method(self) -> str:
        """What `method.name` says."""
        return str(self.record["identity"]["method"]["name"])

    @property
    def seed(self) -> int:
        return int(self.record["identity"]["seed"])

    @property
    def joint(self) -> bool:
        """All tasks learned at once: the upper bound, not a continual learner."""
        return self.method == JOINT

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that were scored, or else of those that are learned."""
        return tuple(self.scored.tasks) if self.scored else tuple(stage.name for stage in self.stages)

    @property
    def scores(self) -> ScoreMatrix:
        """The score matrix as far as it was measured. Raises InputError where nothing was, or it cannot be read."""
        found = self._read_scores()
        if found is None:
            check_begun(self.folder)
            raise InputError(f"{self.folder}: nothing was scored yet; `seekr evaluate {self.folder}` does")
        return found

    @property
    def scored(self) -> ScoreMatrix | None:
        """The score matrix as far as it was measured, read again once it has changed; None = nothing was."""
        return self._by(self._read_scores, None)

    def _read_scores(self) -> ScoreMatrix | None:
        path = self.folder / "scores.json"
        if not path.exists():
            return None
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        if self._scores is None or self._scores[0] != stamp:
            self._scores = stamp, ScoreMatrix.from_json(read_whole(path, self._evaluate), str(path))
        return self._scores[1]

    @property
    def scores_json(self) -> dict[str, Any]:
        """What scores.json says, the numbers drawn from the matrix and which answers were scored too."""
        return dict(read_whole(self.folder / "scores.json", self._evaluate))

    def measure(self, name: str) -> float | None:
        """One of the numbers drawn from the matrix, by its name in scores.json."""
        return getattr(self.scored, name) if self.scored and self.scored.tasks else None

    @property
    def final(self) -> dict[str, float | None]:
        """The score of every task once all are learned, None = not measured."""
        return dict(zip(self.scored.tasks, self.scored.matrix[-1], strict=True)) if self.scored else {}

    @property
    def cells(self) -> frozenset[tuple[int, int]]:
        """The cells (after task i, task j) whose answers were kept."""
        names = (path.stem.split("-") for path in (self.folder / "predictions").glob("*-*.jsonl"))
        return frozenset((int(i), int(j)) for i, j in names if i.isdecimal() and j.isdecimal())

    def answers(self, after: int, task: int) -> list[ScoredAnswer]:
        """What was generated for a cell; nothing where likelihoods were measured. Raises InputError for a torn file."""
        path = self.folder / "predictions" / f"{after}-{task}.jsonl"
        return self._by(lambda: read_answers(path, self._evaluate), [])

    @property
    def general_scores(self) -> tuple[GeneralScore, ...]:
        """What it scores on general tasks so far."""
        return self._by(lambda: read_general(self.folder), ())

    @property
    def grafted(self) -> tuple[Grafted, ...]:
        """What `seekr graft` found of it so far."""
        return self._by(lambda: read_grafted(self.folder), ())

    @property
    def stages(self) -> list[Stage]:
        """The finished stages in their order; what was read of one is kept."""
        folders = finished_stages(self.folder)
        self._stages = {folder: self._stages.get(folder, Stage(folder, self._by)) for folder in folders}
        return list(self._stages.values())

    @property
    def planned(self) -> int:
        """How many stages the run has once it is finished."""
        return 1 if self.joint else len(self.record["config"]["tasks"])

    @property
    def finished(self) -> bool:
        return len(self.stages) >= self.planned

    @property
    def steps(self) -> dict[str, int]:
        """Optimizer steps taken over all stages, by kind."""
        return {"task": 0, "replay": 0} | Counter(entry.kind for stage in self.stages for entry in stage.log)

    @property
    def attention_weights(self) -> dict[str, float]:
        """Task → the weight that the attention loss had in its replay steps."""
        last = {
            stage.name: next((e.attention_weight for e in reversed(stage.log) if e.attention_weight), None)
            for stage in self.stages
        }
        return {name: weight for name, weight in last.items() if weight is not None}

    @property
    def attention_drift(self) -> float | None:
        """By how many nats the chosen heads' attention drifts while a task is learned; None = not measured."""
        measured = (stage for stage in self.stages if "drift" in stage.importance)
        return mean_drift((stage.importance["drift"], stage.heads) for stage in measured)

    @property
    def _evaluate(self) -> str:
        return EVALUATE.format(run=self.folder)

    def status(self) -> list[TaskStatus]:
        """How far each stage is, in their order; `joint` has one stage for all tasks."""
        from seekr.training.checkpoints import checkpoint_step, newest_complete_checkpoint

        done = [stage.name for stage in self.stages]
        tasks = self.record["config"]["tasks"]
        names = [JOINT] if self.joint else [t["name"] for t in sorted(tasks, key=lambda t: t.get("learn", True))]
        result = []
        for index, name in enumerate(names):
            if name in done:
                result.append(TaskStatus(name, "done"))
                continue
            checkpoint = newest_complete_checkpoint(working_folder(self.folder, index, name))
            step = checkpoint_step(checkpoint) if checkpoint else None
            result.append(TaskStatus(name, "stopped" if step is not None else "waiting", step))
        return result
