"""What every continual-learning method is: its settings, the moments at which a run asks it, and its form of model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from seekr.data.token_rows import TokenizedRow
from seekr.errors import InputError, reason
from seekr.memory.reader import Memory
from seekr.methods.costs import Costs
from seekr.modeling.batches import MicroBatch, Signals, StepKind, collate
from seekr.modeling.fused_loss import computes_loss, fused_task_loss
from seekr.modeling.inputs import model_inputs
from seekr.modeling.loading import load_stage, save_model, with_adapter
from seekr.modeling.losses import answer_cross_entropy
from seekr.modeling.packing import task_logits

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase

    from seekr.data import AnswerKey

Adapter = Literal["any", "none", "lora", "own"]
Coefficient = Annotated[float, Field(gt=0, le=1)]
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
        working: a folder that is there while the task is trained, and gone behind it.
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
    track: Track


@dataclass(kw_only=True)
class Method(Costs):
    """Fine-tuning on the task at hand; what a method adds is a subclass.

    Class attributes:
        name: what `method.name` says.
        joint: whether all tasks are trained as one.
        keeps: whether rows of past tasks are kept.
        generates: whether these rows are the model's own inventions, so that no old data is needed.
        replays: whether they are trained on in steps of their own.
        adapter: which weights are trained: "any" = all of them or the LoRA adapter that a run asks for, "none" = of
            the model itself alone, "lora" = a LoRA adapter, peft's default one if the run says nothing, "own" = an
            adapter or prompts that the method makes itself.
        shards: whether parameters may be spread over processes, as FSDP and ZeRO-3 do. Unless the adapter is its own,
            `after_task` is then given models in parts, which all processes call equally often: `processes.in_step`.
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
    adapter: ClassVar[Adapter] = "any"
    shards: ClassVar[bool] = True
    free: ClassVar[frozenset[str]] = frozenset({"average"})

    average: Coefficient | None = None

    memories: list[Memory] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, adapter in _adapters(cast(Any, type(self))).items():
            value = getattr(self, key)
            try:
                setattr(self, key, adapter.validate_python(value))
            except ValidationError as error:
                raise InputError(f"method.{key}: {reason(error)}, not {value!r}") from None

    @property
    def full_name(self) -> str:
        """What `method.name` says of it: its name, or package.module.Class of one that is not seekr's own."""
        kind = type(self)
        own = kind.__module__.startswith("seekr.")
        return self.name if own else f"{kind.__module__}.{kind.__qualname__}"

    def settings(self) -> dict[str, Any]:
        """The method as `run.json` keeps it: its name and every setting.

        `average` is left out where there is none: runs of before there was such a setting are the same run.
        """
        found = {"name": self.full_name} | {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return {key: value for key, value in found.items() if key != "average" or value is not None}

    def lora_settings(self, lora: dict[str, Any] | Literal[False] | None) -> dict[str, Any] | None:
        """The fields of the LoRA adapter that is trained, None = no such adapter, given the key `lora` of a run.

        False says that there shall be no adapter, None nothing. Raises InputError where the method cannot do so.
        """
        if self.adapter == "none" and lora not in (None, False):
            raise InputError(f"lora: {self.name} trains the weights of the model itself; leave lora out")
        if self.adapter == "own" and lora is not None:
            raise InputError(f"lora: {self.name} brings an adapter of its own and takes no other one; leave lora out")
        if self.adapter == "lora" and lora is False:
            raise InputError(f"lora: false cannot be with {self.name}, which trains LoRA adapters; leave lora out")
        if lora is None and self.adapter == "lora":
            return {}
        return None if lora is False else lora

    def check_run(self, *, dtype: str, lora: bool, skills: bool) -> None:
        """Raises InputError where the method cannot be with what else a run asks for; no model is loaded yet.

        `lora` says whether a LoRA adapter is trained, `skills` whether there is a task with learn: false.
        """

    def virtual_tokens(self, tasks: int) -> int:
        """Positions of the model that are taken beside a row's own tokens once `tasks` tasks are learned."""
        return 0

    def check_model(self, model: nn.Module, max_length: int | None = None, tasks: int = 1) -> None:
        """Raises InputError where the method cannot learn `tasks` tasks of up to `max_length` tokens on this model.

        The model has no weights yet: its parameters are on torch's device "meta".
        """

    @property
    def reads_attention(self) -> bool:
        """Whether attention maps are read, so that the model has to be one whose maps can be."""
        return False

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        """Makes the base model what is trained on the first task. Weights are drawn from torch's random state."""
        return model if lora is None else with_adapter(model, lora)

    def check_kept(self, stages: Sequence[Path]) -> None:
        """Raises InputError where a file is missing that the method has kept of the finished stages for later ones."""

    def load_trainable(self, base: str, weights: Path | None, *, dtype: str, lora: LoraConfig | None) -> Any:
        """The model that is trained on the next task; `weights` = the newest stage's, None = `base` itself."""
        model = load_stage(base, weights, dtype=dtype, trainable=True)
        return self.adapt(model, lora) if weights is None else model

    def trained(self, model: Any) -> Any:
        """What stays of a model once its task is learned: what is measured, saved and loaded again."""
        return model

    def save(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Writes a stage's `model` folder."""
        save_model(model, tokenizer, folder)

    def load(self, base: str, weights: Path | None, *, dtype: str) -> Any:
        """The model of a stage's `model` folder as it answers, frozen; None = `base` itself."""
        return load_stage(base, weights, dtype=dtype)

    def tell_task(self, model: nn.Module, task: int) -> None:
        """Tells a loaded model the place (from 0, skills included) of the task whose prompts come next.

        Most methods have no use for it; a method that has one says so in its docstring.
        """

    def inputs_with_answers(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a loaded model is given to say how likely the answers in a batch are, which it has to read as training
        has it read them."""
        return model_inputs(batch)

    def stored_parameters(self, model: nn.Module, trained: int) -> int:
        """Parameters in a stage's `model` folder: all those of an adapted `model`, or the `trained` ones alone."""
        return trained if hasattr(model, "peft_config") else sum(p.numel() for p in model.parameters())

    @property
    def replayed(self) -> list[Memory]:
        """The memories that get replay steps."""
        return self.memories if self.replays else []

    @property
    def signals(self) -> Signals:
        """What micro-batches of this task carry of teachers; what is not named is not read."""
        return {}

    def before_task(self, context: TaskContext) -> None:
        """Asked before a task is trained: opens what earlier stages kept, and may freeze weights."""
        self.memories = [
            Memory.open(
                stage / "memory",
                tokenizer_fingerprint=context.tokenizer_fingerprint,
                model_fingerprint=context.model_fingerprint,
            )
            for stage in context.stages
            if self.keeps
        ]

    def pretend(self, context: TaskContext, kept: Memory) -> None:
        """`before_task` of a later task, for plans: no tensor has numbers, and of an earlier task there is `kept`."""
        self.before_task(context)
        self.memories = [kept] if self.keeps else []

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of the loss of a task step: Σ cross-entropy / answer tokens of the step."""
        if computes_loss(model):
            return {"task": fused_task_loss(model, batch)}
        logits = task_logits(model, batch)
        return {"task": answer_cross_entropy(logits, batch.labels, batch.weights) / batch.step_tokens}

    def penalties(self, model: nn.Module) -> dict[str, Tensor]:
        """What the weights alone add to the loss of a task step: part → Tensor[], of the whole step.

        It is counted once a step, into however many micro-batches and processes that is cut.
        """
        return {}

    def step_losses(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of each part of the loss of a task step: of its rows, and of the penalties."""
        # Before the forward: the backward then comes to them last, when the activations are gone.
        penalties = {name: batch.share * value for name, value in self.penalties(model).items()}
        return self.task_loss(model, batch) | penalties

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        """This micro-batch's share of each part of the loss of a replay step, already weighted."""
        raise NotImplementedError(f"{self.name} keeps nothing to replay")

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Asked in each optimizer step (counted from 0 in the task), its gradients whole and not yet clipped."""

    def step_facts(self, kind: StepKind) -> dict[str, float]:
        """What the log says of an optimizer step beside its losses; the same on all processes."""
        return {}

    def after_task(self, context: TaskContext) -> None:
        """Asked after a task is trained, or to be remembered: writes what is kept into `context.folder`."""

    def measure(self, samples: Sequence[TokenizedRow], context: TaskContext) -> dict[str, Tensor]:
        """What is measured of the kept rows of a learned task, as a part of `after_task`."""
        return {}


def batch_of(samples: Sequence[TokenizedRow], context: TaskContext) -> dict[str, Tensor]:
    """Samples as one batch on the model's device."""
    device = next(context.model.parameters()).device
    return {name: tensor.to(device) for name, tensor in collate(samples, context.pad_token_id).items()}


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True)
    return {item.name: TypeAdapter(hints[item.name], config=strict) for item in fields(kind) if item.init}
