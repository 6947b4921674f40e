"""What every continual-learning method is: its settings, what a task is trained for, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast, dataclass_transform, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from seekr.data.answers import AnswerKey
from seekr.data.token_rows import TokenizedRow
from seekr.errors import InputError, reason
from seekr.memory.reader import Memory
from seekr.memory.writer import MemoryWriter
from seekr.methods.costs import Costs
from seekr.methods.form import ModelForm
from seekr.modeling.batches import MicroBatch, Signals, StepKind, collate
from seekr.modeling.fused_loss import computes_loss, fused_task_loss
from seekr.modeling.packing import task_logits

Coefficient = Annotated[float, Field(gt=0, le=1)]
Track = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_CAME_LATER = {"average", "replay_limit"}
_ELSEWHERE = {
    "Objective that `start` returns": {"task_loss", "replay_loss", "penalties", "signals", "after_backward"},
    "ModelForm that `form` names": {name for name in vars(ModelForm) if name[0] != "_"} - {"check_model", "prompts"},
}


@dataclass
class TaskContext:
    """What a method may know of the task at hand.

    Attributes:
        task: the task's name.
        index: the task's place in the run, skills included, from 0.
        learn: False for a skill that is remembered without being trained.
        seed: the run's seed.
        model: the model, before or after the task's training.
        before: loads the model as it was before the task; None for a skill.
        tokenizer_fingerprint, model_fingerprint: what a memory of this run belongs to.
        tokenizer: of the model.
        pad_token_id: fills batches; masked.
        samples: the task's tokenized training rows.
        prompts: the text of each row's prompt.
        key_of: gives the key to the answer of the row at a place: how one is read, and what is right.
        metric, max_new_tokens: how the task's answers are scored, and how long they are.
        max_length: tokens that a prompt and its answer have together at most.
        micro_batch_rows: rows of one forward in training.
        device: where the model is trained.
        stages: folders of the finished stages before this one, in order.
        working: a folder that is there while the task is trained, and gone after it.
        folder: the stage under construction.
        encrypt: whether what it keeps of people's rows is encrypted.
        track: opens a progress bar: `with track("measuring", 20) as advance: advance(1)`.
    """

    task: str
    index: int
    learn: bool
    seed: int
    model: nn.Module
    before: Callable[[], nn.Module] | None
    tokenizer_fingerprint: str
    model_fingerprint: str
    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int | None
    samples: Sequence[TokenizedRow]
    prompts: Sequence[str]
    key_of: Callable[[int], AnswerKey]
    metric: str
    max_new_tokens: int
    max_length: int
    micro_batch_rows: int
    device: torch.device
    stages: Sequence[Path]
    working: Path
    folder: Path
    encrypt: bool
    track: Track

    @property
    def _owner(self) -> dict[str, Any]:
        return {"tokenizer_fingerprint": self.tokenizer_fingerprint, "model_fingerprint": self.model_fingerprint}

    def memories(self) -> list[Memory]:
        """What every stage before has kept."""
        return [Memory.open(stage / "memory", **self._owner) for stage in self.stages]

    def writer(self, folder: Path, samples: Sequence[TokenizedRow], **options: Any) -> MemoryWriter:
        """Writes `samples`, and what a model says of them, into a folder that is a memory then; all processes do so."""
        return MemoryWriter(folder, samples, task=self.task, encrypt=self.encrypt, **self._owner, **options)


class Objective:
    """What the model is trained for while one task is learned: its losses, and all that they remember of the task.

    Attributes:
        method: whose settings it follows.
        memories: kept samples of past tasks that get replay steps.
        replay_passes, replay_limit: how often each of them comes in an epoch, and how many do, at most, see
            `training.order.StepPlan`.
        signals: what micro-batches carry of teachers; what is not named is not read.
        penalties: part of the loss → what the weights alone add to it, Tensor[] of the whole step given the model. It
            is counted once a step, into however many micro-batches and processes that is cut.
        facts: what the log says of a step of a kind in addition to its losses; the same on all processes.
    """

    def __init__(self, method: Method, memories: Sequence[Memory] = ()) -> None:
        self.method = method
        self.memories = list(memories)
        self.replay_passes: int | None = getattr(method, "replay_passes", None)
        self.replay_limit: int | None = getattr(method, "replay_limit", None)
        self.signals: Signals = {}
        self.penalties: dict[str, Callable[[nn.Module], Tensor]] = {}
        self.facts: dict[StepKind, dict[str, float]] = {}

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of the loss of a task step: Σ cross-entropy / answer tokens of the step."""
        if computes_loss(model):
            return {"task": fused_task_loss(model, batch)}
        return {"task": batch.answer_loss(task_logits(model, batch))}

    def step_losses(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of each part of the loss of a task step: of its rows, and of the penalties."""
        # Before the forward: the backward then comes to them last, when the activations are gone.
        penalties = {name: batch.share * penalty(model) for name, penalty in self.penalties.items()}
        return self.task_loss(model, batch) | penalties

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of each part of the loss of a replay step, already weighted."""
        raise NotImplementedError(f"{self.method.name} keeps nothing to replay")

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Asked in each optimizer step (counted from 0 in the task), its gradients whole and not yet clipped."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Method(Costs):
    """Fine-tuning on the task at hand; a method is a subclass, whose fields are its settings and nothing else.

    It is a frozen dataclass, its fields checked by their types, and so is every subclass by itself.

    Class attributes:
        name: what `method.name` says.
        joint: whether all tasks are trained as one.
        keeps: whether rows of past tasks are kept.
        generates: whether these rows are the model's own inventions, so that no old data is needed.
        replays: whether they are trained on in steps of their own.
        shards: whether parameters may be spread over processes, as FSDP and ZeRO-3 do. Unless the adapter is its own,
            `remember` is then given models in parts, which all processes call equally often: `processes.in_step`.
        free: settings that nothing kept of a task depends on, so that another run may go on with others.

    Args:
        average: the share of the trained weights in what stays of a task, the rest being the model before it, see
            `averaging`; null = all.
    """

    name: ClassVar[str]
    joint: ClassVar[bool] = False
    keeps: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    replays: ClassVar[bool] = False
    shards: ClassVar[bool] = True
    free: ClassVar[frozenset[str]] = frozenset({"average"})

    average: Coefficient | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for where, names in _ELSEWHERE.items():
            if misplaced := sorted(vars(cls).keys() & names):
                raise TypeError(f"{cls.__name__}.{misplaced[0]}: it belongs to the {where}")
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for key, adapter in _adapters(cast(Any, type(self))).items():
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, adapter.validate_python(value))
            except ValidationError as error:
                raise InputError(f"method.{key}: {reason(error)}, not {value!r}") from None
        if self.average is not None and self.form.prompts:
            raise InputError(f"method.average: {self.name} learns prompts and moves no weights; leave average out")

    @property
    def full_name(self) -> str:
        """What `method.name` says of it: its name, or package.module.Class of one that is not seekr's own."""
        kind = type(self)
        own = kind.__module__.startswith("seekr.")
        return self.name if own else f"{kind.__module__}.{kind.__qualname__}"

    def settings(self) -> dict[str, Any]:
        """The method as `run.json` keeps it: its name and every setting.

        Of settings that came later those that are null are left out: earlier runs are the same run.
        """
        found = {"name": self.full_name} | {item.name: getattr(self, item.name) for item in fields(self)}
        return {key: value for key, value in found.items() if key not in _CAME_LATER or value is not None}

    @property
    def form(self) -> ModelForm:
        """Which weights are trained, how they are loaded, and how a stage answers."""
        return ModelForm(self)

    def check_run(self, *, dtype: str, lora: bool, skills: bool) -> None:
        """Raises InputError where the method cannot be with what else a run asks for; no model is loaded yet.

        `lora` says whether a LoRA adapter is trained, `skills` whether there is a task with learn: false.
        """

    def check_model(self, model: nn.Module, max_length: int | None = None, tasks: int = 1) -> None:
        """Raises InputError where the method cannot learn `tasks` tasks of up to `max_length` tokens on this model.

        The model has no weights yet: its parameters are on torch's device "meta".
        """
        self.form.check_model(model, max_length, tasks)

    def check_attention(self, layers: int, heads: int) -> None:
        """Raises InputError where the method cannot learn on so many layers with attention, of so many heads each."""

    @property
    def reads_attention(self) -> bool:
        """Whether attention maps are read, so that the model has to be one whose maps can be."""
        return False

    def check_kept(self, stages: Sequence[Path]) -> None:
        """Raises InputError where a file is missing that the method has kept of the finished stages for later ones."""

    def start(self, context: TaskContext) -> Objective:
        """Asked before a task is trained; it may freeze weights, and opens what earlier stages kept."""
        return Objective(self)

    def pretend(self, context: TaskContext) -> Objective:
        """`start` of a later task, for plans: no tensor has numbers, and of an earlier task is `context.memories()`."""
        return self.start(context)

    def remember(self, context: TaskContext) -> None:
        """Asked after a task is trained, or of a skill: writes what is kept into `context.folder`."""

    def measure(self, samples: Sequence[TokenizedRow], context: TaskContext) -> dict[str, Tensor]:
        """What is measured of the kept rows of a learned task, as a part of `remember`."""
        return {}


def batch_of(samples: Sequence[TokenizedRow], context: TaskContext) -> dict[str, Tensor]:
    """Samples as one batch on the model's device."""
    device = next(context.model.parameters()).device
    return {name: tensor.to(device) for name, tensor in collate(samples, context.pad_token_id).items()}


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True)
    return {item.name: TypeAdapter(hints[item.name], config=strict) for item in fields(kind)}
