"""What a run needs, on paper: memory, what is kept, disk, steps and hours, and how it can be spread over devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from seekr.config.schema import Config
from seekr.methods import AGem, Method
from seekr.methods.seekr import MEASURED_TOGETHER
from seekr.planning.kept import Disk, SampleBytes, disk, keeps_attention, sample_bytes
from seekr.planning.live import ACTIVATIONS, CASTS, LOGITS, MAPS
from seekr.planning.notes import notes_of, optimizer_name
from seekr.planning.paper import OPTIMIZER, Bytes, Paper
from seekr.planning.reading import RunOnPaper, read_run
from seekr.planning.rows import Shape, StageSteps, drawn_shape, largest_of, measured_shape, plan_steps
from seekr.planning.scaling import Steps
from seekr.planning.sharding import Way, ways

if TYPE_CHECKING:
    from transformers import TrainingArguments


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
class Kept:
    """What is kept of a task: rows, bytes of its longest one, bytes of all."""

    rows: int
    longest: SampleBytes
    total: int


@dataclass(frozen=True)
class Plan:
    """What `seekr plan` shows. `ways` is empty where no device is given.

    `parameters` are those of the base model with what was added to it.

    `activations`: what a task step holds beside weights and gradients, by (checkpointing, attention).
    """

    run: RunOnPaper
    attention: str
    parameters: int
    trained: int
    stored: int
    phases: list[Phase]
    activations: dict[tuple[bool, str], int]
    stages: list[StageSteps]
    kept: list[Kept]
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
        config, memory = self.run.config, self.device_memory
        return {
            "model": config.model,
            "method": self.run.method.name,
            "attention": self.attention,
            "optimizer": optimizer_name(self.run.arguments),
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "memory": [
                {"phase": phase.name, **asdict(phase.shape), "bytes": phase.total, "parts": phase.parts}
                for phase in self.phases
            ],
            "activations": [
                {"gradient_checkpointing": checkpointing, "attention": attention, "bytes": count}
                for (checkpointing, attention), count in self.activations.items()
            ],
            "tasks": [
                {
                    "task": stage.rows.name,
                    "learn": stage.rows.learn,
                    "rows": len(stage.rows.tokens),
                    "counted": stage.rows.known,
                    "task_steps": stage.task_steps,
                    "replay_steps": stage.replay_steps,
                    "task_tokens": stage.task_tokens,
                    "replay_tokens": stage.replay_tokens,
                    "kept_rows": kept.rows,
                    "kept_bytes": kept.total,
                    "longest_kept": asdict(kept.longest),
                }
                for stage, kept in zip(self.stages, self.kept, strict=True)
            ],
            "tokens": self.tokens,
            "hours": self.hours,
            "disk": asdict(self.disk) | {"keep_stages": config.keep_stages},
            "device_memory": memory,
            "devices": self.devices,
            "ways": [
                {
                    "trains": way.trains,
                    "gradient_checkpointing": way.checkpointing,
                    "sharding": way.sharding,
                    "phase": way.phase,
                    "bytes": way.total,
                    "parts": way.parts,
                    "fits": way.verdict(memory or 0),
                }
                for way in self.ways
            ],
            "notes": self.notes,
        }


def checkpoints(arguments: TrainingArguments) -> bool:
    """Whether activations are computed again in the backward; transformers has renamed the field."""
    return any(getattr(arguments, f"{name}_checkpointing", False) for name in ("gradient", "activation"))


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
    paper = _paper(run, run.lora)
    steps = plan_steps(run.stages, run.method, run.arguments, seed=config.seed, processes=devices)
    checkpointing = checkpoints(run.arguments)
    optimizer = paper.optimizer_bytes()
    phases = _phases(_on_paper(run, paper), steps, checkpointing, optimizer)
    kept = _kept(run.method, paper, steps)
    learned = sum(stage.rows.learn for stage in steps)
    saved = disk(
        run.method, run.arguments, steps, keep=config.keep_stages, stored=paper.stored, trained=paper.trained,
        dtype=config.dtype, optimizer=optimizer,
    )  # fmt: skip
    return Plan(
        run=run,
        attention=paper.attention,
        parameters=paper.parameters,
        trained=paper.trained,
        stored=paper.stored,
        phases=phases,
        activations=_activations(paper, run, phases),
        stages=steps,
        kept=kept,
        disk=saved,
        throughput=tokens_per_second,
        ways=[] if device_memory is None else _ways(paper, run, steps, phases, devices),
        device_memory=device_memory,
        devices=devices,
        notes=[*run.notes, *notes_of(run, paper, optimizer, saved, learned)],
    )


def _paper(run: RunOnPaper, lora: Any, layers: int | None = None) -> Paper:
    return Paper(run.model_config, run.method, run.arguments, lora=lora, dtype=run.config.dtype, layers=layers)


def _on_paper(run: RunOnPaper, paper: Paper, lora: Any = None, attention: str | None = None) -> Steps:
    return Steps(paper, lambda layers: _paper(run, lora or run.lora, layers), attention=attention)


def _phases(steps: Steps, stages: Sequence[StageSteps], checkpointing: bool, optimizer: int | None) -> list[Phase]:
    """The moments of a run that may need most: a step of either kind, and measuring where it loads a second model."""
    found = []
    state = {OPTIMIZER: optimizer} if optimizer else {}
    method, micro_batch = steps.paper.method, steps.paper.arguments.per_device_train_batch_size
    drawn = drawn_shape(stages, min(micro_batch, method.reference_rows)) if isinstance(method, AGem) else None
    for name, shape, step in (
        ("task step", largest_of([stage.task_shape for stage in stages]), steps.task_step),
        ("replay step", largest_of([stage.replay_shape for stage in stages]), steps.replay_step),
        ("reference gradient", drawn, steps.reference_step),
    ):
        if shape is not None:
            found.append(Phase(name, shape, step(shape, checkpointing=checkpointing) | state))
    measured = measured_shape(stages, min(MEASURED_TOGETHER, micro_batch)) if keeps_attention(method) else None
    if measured is not None:
        found.append(Phase("measuring heads", measured, steps.measure_heads(measured, checkpointing=checkpointing)))
    return found


def _activations(paper: Paper, run: RunOnPaper, phases: Sequence[Phase]) -> dict[tuple[bool, str], int]:
    """What a task step holds for its micro-batch, with and without checkpointing, as the model attends and eagerly."""
    found = {}
    for phase in (phase for phase in phases if phase.name == "task step"):
        for attention in dict.fromkeys((paper.attention, "eager")):
            steps = _on_paper(run, paper, attention=attention)
            for checkpointing in (False, True):
                parts = steps.task_step(phase.shape, checkpointing=checkpointing)
                found[checkpointing, attention] = sum(parts.get(name, 0) for name in (ACTIVATIONS, MAPS, CASTS, LOGITS))
    return found


def _kept(method: Method, paper: Paper, steps: Sequence[StageSteps]) -> list[Kept]:
    calls = paper.calls() if keeps_attention(method) else {}
    found = []
    for stage in steps:
        sizes = [
            sample_bytes(method, calls, paper.text, tokens=stage.rows.tokens[i], answers=stage.rows.answers[i])
            for i in stage.kept
        ]
        longest = max(sizes, key=lambda size: size.total, default=SampleBytes(0, 0, 0))
        found.append(Kept(len(sizes), longest, sum(size.total for size in sizes)))
    return found


def _ways(
    paper: Paper, run: RunOnPaper, stages: Sequence[StageSteps], phases: Sequence[Phase], devices: int
) -> list[Way]:
    """The run as it is configured, with checkpointing, and with LoRA adapters, as far as they are other runs."""
    configured = checkpoints(run.arguments)
    trains = "adapter" if hasattr(paper.model, "peft_config") else "all weights"
    found = ways(paper, {p.name: p.parts for p in phases}, trains=trains, checkpointing=configured, devices=devices)
    variants = [] if configured else [(trains, paper, run.lora)]
    if run.method.adapter == "any" and run.lora is None:
        from peft import LoraConfig

        lora = LoraConfig(task_type="CAUSAL_LM")
        variants.append((f"LoRA, r={lora.r}", _paper(run, lora), lora))
    for name, model, adapter in variants:
        each = _phases(_on_paper(run, model, adapter), stages, True, model.optimizer_bytes())
        found += ways(model, {p.name: p.parts for p in each}, trains=name, checkpointing=True, devices=devices)
    return found
