"""What a run needs, on paper: memory, what is kept, disk, steps and hours, and how it can be spread over devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import TrainingArguments

from seekr.attention.support import without_attention
from seekr.config.schema import Config
from seekr.errors import InputError, said_by
from seekr.methods.costs import MEASURED_TOGETHER
from seekr.modeling.batches import StepKind
from seekr.planning.disk import Disk, disk
from seekr.planning.live import Bytes
from seekr.planning.moments import kept_bytes, measuring, step
from seekr.planning.paper import OPTIMIZER, Paper
from seekr.planning.reading import RunOnPaper, read_run
from seekr.planning.rows import Shape, StageSteps, largest_of, measured_shape, plan_steps
from seekr.planning.sharding import Way, ways
from seekr.report.terminal import readable_bytes

_COUNTED = ("task_steps", "replay_steps", "task_tokens", "replay_tokens")


@dataclass(frozen=True)
class Phase:
    """A moment of the run: the largest forward of its kind and the bytes at its peak, by part."""

    name: str
    shape: Shape
    parts: Bytes

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """What `seekr plan` shows. `kept`: bytes, by stage; `ways` is empty where no device is given."""

    run: RunOnPaper
    paper: Paper
    phases: list[Phase]
    stages: list[StageSteps]
    kept: list[int]
    disk: Disk
    throughput: float | None
    ways: list[Way]
    device_memory: int | None
    devices: int
    notes: list[str]

    @property
    def largest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def tokens(self) -> int:
        """Tokens that all steps read, padding not counted."""
        return sum(stage.task_tokens + stage.replay_tokens for stage in self.stages)

    @property
    def hours(self) -> float | None:
        """Of all steps; None where no throughput is given."""
        return None if self.throughput is None else self.tokens / self.throughput / 3600

    def to_json(self) -> dict[str, Any]:
        """Bytes, counts and hours, unrounded."""
        return {
            "model": self.run.config.model,
            "method": self.run.method.name,
            "attention": self.paper.attention,
            "optimizer": optimizer_name(self.run.arguments),
            "parameters": self.paper.parameters,
            "trained_parameters": self.paper.trained,
            "memory": [
                {"phase": phase.name, **asdict(phase.shape), "bytes": phase.total, "parts": phase.parts}
                for phase in self.phases
            ],
            "tasks": [
                {
                    "task": stage.rows.name,
                    "learn": stage.rows.learn,
                    "rows": len(stage.rows.sizes),
                    "counted": stage.rows.known,
                    **{name: getattr(stage, name) for name in _COUNTED},
                    "kept_rows": len(stage.kept),
                    "kept_bytes": kept,
                }
                for stage, kept in zip(self.stages, self.kept, strict=True)
            ],
            "tokens": self.tokens,
            "hours": self.hours,
            "disk": asdict(self.disk) | {"keep_stages": self.run.config.keep_stages},
            "device_memory": self.device_memory,
            "devices": self.devices,
            "ways": [
                asdict(way) | {"bytes": way.total, "fits": way.verdict(self.device_memory or 0)} for way in self.ways
            ],
            "notes": self.notes,
        }


def optimizer_name(arguments: TrainingArguments) -> str:
    """As `training.optim` has it."""
    return str(getattr(arguments.optim, "value", arguments.optim))


def make_plan(
    config: Config, *, tokens_per_second: float | None = None, device_memory: int | None = None, devices: int = 1
) -> Plan:
    """Plans a run without loading weights, touching the output folder or asking a network.

    Args:
        config: as for `seekr learn`; of the model its config.json is enough, of a task its `train_limit`.
        tokens_per_second: what all devices read together in training, measured elsewhere.
        device_memory: bytes of one device, to see what fits.
        devices: how many there are; each is a process that adds rows to a step.

    Raises:
        InputError: where the configuration is wrong, or too little of it is here to be planned.
    """
    run = read_run(config)
    stages = plan_steps(run.stages, run.method, run.arguments, seed=config.seed, processes=devices)
    try:
        paper = Paper(run.model_config, run.method, run.arguments, lora=run.lora, dtype=config.dtype)
        optimizer = paper.optimizer_bytes()
        phases = _phases(paper, stages, optimizer)
    except InputError:
        raise
    except Exception as error:  # whatever code of a family or a method raises that looks at numbers
        ordinary = "" if run.method.name == "sequential" else "; method.name=sequential plans the ordinary part"
        raise InputError(
            f"model: a step of {config.model} with method {run.method.name} cannot be planned without numbers "
            f"({type(error).__name__}: {said_by(error)}){ordinary}"
        ) from error
    saved = disk(
        config, run.method, run.arguments, stages, stored=paper.stored, trained=paper.trained, optimizer=optimizer
    )
    return Plan(
        run=run,
        paper=paper,
        phases=phases,
        stages=stages,
        kept=[kept_bytes(paper, stage) for stage in stages],
        disk=saved,
        throughput=tokens_per_second,
        ways=[] if device_memory is None else ways(paper, {it.name: it.parts for it in phases}, devices),
        device_memory=device_memory,
        devices=devices,
        notes=[*run.notes, *_notes(run, paper, optimizer, saved, sum(stage.rows.learn for stage in stages))],
    )


def _phases(paper: Paper, stages: Sequence[StageSteps], optimizer: int | None) -> list[Phase]:
    """The moments of a run that may need most: a step of either kind, and what a method computes on top."""
    method, rows = paper.method, paper.arguments.per_device_train_batch_size
    state = {OPTIMIZER: optimizer} if optimizer else {}
    found = []
    kinds: tuple[StepKind, ...] = ("task", "replay")
    for kind in kinds:
        if (shape := largest_of(shape for stage in stages for shape in stage.shapes[kind])) is not None:
            found.append(Phase(f"{kind} step", shape, step(paper, kind, shape) | state))
    measured = measured_shape(stages, min(MEASURED_TOGETHER, rows)) if method.measures else None
    if measured is not None:
        found.append(Phase(f"measuring {method.measures}", measured, measuring(paper, measured)))
    return found


def _notes(run: RunOnPaper, paper: Paper, optimizer: int | None, saved: Disk, learned: int) -> Iterator[str]:
    """What the figures leave out or assume, one line each."""
    method = run.method
    if optimizer is None:
        yield f"the state of optimizer {optimizer_name(run.arguments)} is not known here and is not counted"
    if method.unplanned:
        yield f"method {method.name}: not counted is {method.unplanned}"
    if method.average is not None:
        yield "average: once a task is trained, the model before it lies in CPU memory too, not counted"
    if paper.attention not in ("sdpa", "eager"):
        yield f"attention {paper.attention} is taken to hold queries, keys, values and output, and no map"
    if method.reads_attention:
        if note := without_attention(paper.model, paper.calls):
            yield note
        yield "chosen heads are not known before: the budget is taken as spread evenly over its layers"
    if saved.kept_stages == learned > 1:
        one, all_of_them = readable_bytes(saved.one_stage), readable_bytes(saved.stages)
        yield f"keep_stages: last keeps the weights of one stage, {one} in place of {all_of_them}"
    yield (
        "estimates: the allocator's fragments, a kernel's own workspace and what a CUDA context takes come on top; "
        "hours are of training steps alone, generating and scoring answers not counted"
    )
