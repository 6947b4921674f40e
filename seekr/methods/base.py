"""What every continual-learning method is: its settings, and three moments at which the run asks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from seekr.batches import MicroBatch, TokenizedRow
from seekr.errors import InputError, reason
from seekr.losses import answer_cross_entropy
from seekr.memory import Memory

Track = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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
        pad_token_id: fills batches; masked.
        samples: the task's tokenized training rows.
        stages: folders of the finished stages before this one, in order.
        folder: the stage under construction.
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
    pad_token_id: int | None
    samples: Sequence[TokenizedRow]
    stages: Sequence[Path]
    folder: Path
    track: Track


@dataclass(kw_only=True)
class Method:
    """Fine-tuning on the task at hand; what a method adds is a subclass.

    Class attributes:
        name: what `method.name` says.
        joint: whether all tasks are trained as one.
        replays: whether past tasks are kept and replayed.
    """

    name: ClassVar[str]
    joint: ClassVar[bool] = False
    replays: ClassVar[bool] = False

    memories: list[Memory] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, adapter in _adapters(cast(Any, type(self))).items():
            value = getattr(self, key)
            try:
                setattr(self, key, adapter.validate_python(value))
            except ValidationError as error:
                raise InputError(f"method.{key}: {reason(error)}, not {value!r}") from None

    def settings(self) -> dict[str, Any]:
        """The method as `run.json` keeps it: its name and every setting."""
        return {"name": self.name} | {item.name: getattr(self, item.name) for item in fields(self) if item.init}

    def check_model(self, model: nn.Module, max_length: int | None = None) -> None:
        """Raises InputError where the method cannot work on this model with samples of up to `max_length` tokens."""

    def kept_rows(self, rows: int) -> int:  # noqa: ARG002
        """How many of a task's rows are kept once it is learned."""
        return 0

    def before_task(self, context: TaskContext) -> None:
        """Asked before a task is trained: opens what earlier stages kept."""
        self.memories = [
            Memory.open(
                stage / "memory",
                tokenizer_fingerprint=context.tokenizer_fingerprint,
                model_fingerprint=context.model_fingerprint,
            )
            for stage in context.stages
            if self.replays
        ]

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of the loss of a task step: Σ cross-entropy / answer tokens of the step."""
        logits = model(**batch.inputs, use_cache=False).logits
        return {"task": answer_cross_entropy(logits, batch.labels, batch.weights) / batch.step_tokens}

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of each part of the loss of a replay step, already weighted."""
        raise NotImplementedError(f"{self.name} keeps nothing to replay")

    def after_task(self, context: TaskContext) -> None:
        """Asked after a task is trained, or to be remembered: writes what is kept into `context.folder`."""


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True)
    return {item.name: TypeAdapter(hints[item.name], config=strict) for item in fields(kind) if item.init}
