"""A model without numbers, and the steps that it takes: what they hold in memory at their peak, part by part.

Nothing here is a formula of some family: forward, losses, backward and the tap are the run's own, on tensors that have
a shape and no data, and what is alive at a time is counted. Only the kernel of the attention divergence is stood in
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, PretrainedConfig, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seekr.attention.divergence import Gradients, SampleTeacher, divergence_by
from seekr.attention.rows import block_size
from seekr.attention.sensitivity import sample_losses
from seekr.attention.tap import AttentionCall, Tap
from seekr.batches import MicroBatch, Row, StepKind
from seekr.errors import InputError
from seekr.losses import TopLogits, answer_positions, logits_at
from seekr.methods import Derpp, Method, Seekr
from seekr.models import measuring, parameter_count
from seekr.planning.kept import LayerTeacher, attention_bytes, layer_teacher
from seekr.planning.live import DISTILLATION, GRADIENTS, TEACHER, WEIGHTS, Live
from seekr.planning.rows import Shape
from seekr.training.gradient_share import gradient_shares

BEFORE = "model before the task"
OPTIMIZER = "optimizer state"
UNPADDED = "seekr_unpadded"
"""The name of sdpa without a mask, which it is given where no row of a batch is padded."""

Bytes = dict[str, int]
"""Part → bytes."""

LATE_LAYERS, BETWEEN, FIRST_LAYER = "late layers", "between", "first layer"
Windows = dict[str, Bytes]
"""Window of a step → bytes at its peak: up to the last layer's backward, from the first's on, and between them."""


class Paper:
    """The model that a run trains, on paper.

    Args:
        config: of the base model.
        method, arguments, lora, dtype: of the run.
        layers: how many layers it has; None = as the configuration says.

    Attributes:
        layers: the decoder layers.
        parameters, trained, stored: how many there are, are trained, and are in a stage's folder.

    Raises:
        InputError: where no model can be built from the configuration, or the method cannot adapt one without numbers.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        method: Method,
        arguments: TrainingArguments,
        *,
        lora: Any,
        dtype: str,
        layers: int | None = None,
    ) -> None:
        self.method, self.arguments = method, arguments
        self._mode = FakeTensorMode()
        config = deepcopy(config)
        text = config.get_text_config()
        if layers is not None:
            text.num_hidden_layers = layers
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[:layers]
        with torch.device("meta"):
            try:
                model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
            except (ValueError, KeyError, ImportError, RuntimeError) as error:
                why = " ".join(str(error).split())[:200]
                raise InputError(
                    f"model: no causal language model can be built from its configuration: {why}"
                ) from None
            try:
                self.model = method.adapt(model.requires_grad_(True), lora)
            except InputError:
                raise
            except Exception as error:  # what an adapter computes from the weights cannot be had without them
                raise InputError(
                    f"method {method.name}: what it trains is made from the weights themselves "
                    f"({type(error).__name__}), so it cannot be planned without them; "
                    "method.name=sequential plans the ordinary part"
                ) from None
        with self._mode:
            _give_storage(self.model)
        self.attention = str(self._configs()[0]._attn_implementation)
        self.parameters = parameter_count(self.model)
        self.trained = parameter_count(self.model, trainable_only=True)
        self.stored = method.stored_parameters(self.model, self.trained)
        self.layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.vocabulary, self.heads = int(text.vocab_size), int(getattr(text, "num_attention_heads", 1))

    @property
    def weights(self) -> int:
        """Bytes of the parameters and buffers, tied ones once."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._own())

    def optimizer_bytes(self) -> int | None:
        """Bytes of the optimizer's state, found by one step of it; None for one that takes no step on paper."""
        with self._mode:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            try:
                kind, options = Trainer.get_optimizer_cls_and_kwargs(self.arguments, self.model)
                options.pop("fused", None)  # of the same state
                optimizer = kind(trained, **options)
                for parameter in trained:
                    parameter.grad = torch.empty_like(parameter)
                with self._live(Shape(1, 2, 1, False)):
                    optimizer.step()
                tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
                return sum(tensor.nbytes for tensor in tensors)
            except Exception:  # an optimizer of another package, with kernels of its own
                return None
            finally:
                self.model.zero_grad(set_to_none=True)

    def task_step(self, shape: Shape, *, checkpointing: bool) -> Windows:
        """Bytes alive in the micro-batches of a task step, the optimizer's state not counted."""
        return self._step("task", shape, checkpointing, {})

    def replay_step(self, shape: Shape, *, checkpointing: bool, heads: Mapping[int, int]) -> Windows:
        """The same of a replay step, in whose first one the gradient of each part of the loss is measured too.

        `heads`: layer → how many of its heads are distilled.
        """
        return self._step("replay", shape, checkpointing, heads)

    def measuring(self, shape: Shape, *, checkpointing: bool) -> Windows:
        """Bytes alive while kept rows are measured after a task, without the model before it."""
        with self._mode, self._attending(shape.padded), self._checkpointing(checkpointing), self._live(shape) as live:
            live.window(LATE_LAYERS)
            with self._precision(), measuring(self.model):
                self._measure(self._batch("replay", shape))
        return live.peaks

    def _measure(self, batch: MicroBatch) -> None:
        """Sensitivity's forward and backward, which keep the calls of all layers until they are done."""
        calls: dict[int, AttentionCall] = {}
        with Tap(self.model, consume=calls.__setitem__):
            logits = logits_at(self.model, batch.inputs, *answer_positions(batch.labels))
        torch.autograd.grad(sample_losses(logits, batch.labels).sum(), calls[min(calls)].output)

    def calls(self) -> dict[int, AttentionCall]:
        """The attention calls of one short forward, layer by layer: their heads, sizes and dtypes."""
        shape = Shape(1, 8, 1, False)
        with self._mode, torch.no_grad(), self._attending(shape.padded), self._precision(), self._live(shape):
            batch = self._batch("task", shape)
            with Tap(self.model) as tap:
                self.model(**batch.inputs, use_cache=False)
        return tap.calls

    @property
    def text(self) -> Any:
        """The configuration of the text model."""
        return self.model.config.get_text_config()

    def _step(self, kind: StepKind, shape: Shape, checkpointing: bool, heads: Mapping[int, int]) -> Windows:
        with self._mode, self._attending(False), self._checkpointing(checkpointing), self._live(shape) as live:
            for number in range(min(2, self.arguments.gradient_accumulation_steps)):
                live.window(LATE_LAYERS)
                parts = self._losses(kind, shape, live, heads)
                if number == 0:
                    gradient_shares(parts, self.model.parameters())
                with self._watching(live):
                    torch.stack(list(parts.values())).sum().backward()
                del parts
            self.model.zero_grad(set_to_none=True)
        return live.peaks

    @contextmanager
    def _watching(self, live: Live) -> Iterator[None]:
        """Sees gradients as they come, and opens a window when the last layer has all of its own, and the second."""
        ends = (BETWEEN, self.layers[-1:]), (FIRST_LAYER, self.layers[:2][-1:])
        waiting = [
            (name, {id(p) for layer in some for p in layer.parameters() if p.requires_grad}) for name, some in ends
        ]

        def see(parameter: Parameter) -> None:
            live.know([parameter.grad], GRADIENTS)  # type: ignore[list-item]
            for name, pending in waiting:
                if id(parameter) in pending:
                    pending.remove(id(parameter))
                    if not pending:
                        live.window(name)

        trained = [p for p in self.model.parameters() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(see) for p in trained]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _losses(self, kind: StepKind, shape: Shape, live: Live, heads: Mapping[int, int]) -> dict[str, Tensor]:
        batch, forward = self._batch(kind, shape), _Prepared(self.model, self.arguments)
        if kind == "task":
            return Method.task_loss(self.method, forward, batch)
        if not isinstance(self.method, Derpp):
            return {"replay": Method.task_loss(self.method, forward, batch)["task"]}
        method = deepcopy(self.method)
        method.memories = [_KeptLogits(method, shape, self.vocabulary, live)]  # type: ignore[list-item]
        if not isinstance(method, Seekr) or not method.attention_weight:
            return Derpp.replay_loss(method, forward, batch)
        with Tap(self.model, heads) as tap:
            parts = Derpp.replay_loss(method, forward, batch)
        queries = min(method.query_budget or shape.length, shape.length)
        divergences = [
            _divergence(call, layer_teacher(call, heads[layer], queries, shape.length), method, shape, live)
            for layer, call in tap.calls.items()
        ]
        return parts | {"attention": method.attention_weight * torch.stack(divergences).sum()}

    def _precision(self) -> torch.autocast:
        return _precision(self.arguments)

    def _batch(self, kind: StepKind, shape: Shape) -> MicroBatch:
        rows: list[Row] = [(0, i) for i in range(shape.rows)]
        ids = torch.zeros((shape.rows, shape.length), dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.zeros_like(ids)}
        return MicroBatch(kind, inputs, torch.zeros_like(ids), torch.ones(shape.rows), rows, 1, rows)

    def _live(self, shape: Shape) -> Live:
        live = Live(
            vocabulary=self.vocabulary,
            rows=shape.rows,
            length=shape.length,
            heads=self.heads,
            answers=min(shape.answers, shape.length - 1),
        )
        live.know(self._own(), WEIGHTS)
        return live

    def _own(self) -> list[Tensor]:
        found = {id(t.untyped_storage()): t for t in (*self.model.parameters(), *self.model.buffers())}
        return list(found.values())

    def _configs(self) -> list[Any]:
        configs = (getattr(module, "config", None) for module in self.model.modules())
        return list({id(c): c for c in configs if hasattr(c, "_attn_implementation_internal")}.values())

    @contextmanager
    def _attending(self, masked: bool) -> Iterator[None]:
        """The model's attention as it is called with a mask of padding or, as in every step, without."""
        ALL_ATTENTION_FUNCTIONS.register(UNPADDED, ALL_ATTENTION_FUNCTIONS["sdpa"])
        plain = self.attention != "eager" and not (self.attention == "sdpa" and masked)
        configs = self._configs()
        before = [config._attn_implementation_internal for config in configs]
        for config in configs:
            config._attn_implementation_internal = UNPADDED if plain else self.attention
        try:
            yield
        finally:
            for config, name in zip(configs, before, strict=True):
                config._attn_implementation_internal = name

    @contextmanager
    def _checkpointing(self, on: bool) -> Iterator[None]:
        self.model.train()
        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        if on:
            enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        try:
            yield
        finally:
            if on:
                getattr(base, "activation_checkpointing_disable", base.gradient_checkpointing_disable)()


class _Prepared(nn.Module):
    """What accelerate makes of a model: autocast inside the forward, float32 outside."""

    def __init__(self, model: nn.Module, arguments: TrainingArguments) -> None:
        super().__init__()
        self.model, self.arguments = model, arguments

    def forward(self, **inputs: Any) -> Any:
        with _precision(self.arguments):
            output = self.model(**inputs)
        if self.arguments.bf16 or self.arguments.fp16:
            output.logits = output.logits.float()
        return output


def _precision(arguments: TrainingArguments) -> torch.autocast:
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    return torch.autocast("cpu", dtype=dtype, enabled=arguments.bf16 or arguments.fp16)


class _KeptLogits:
    """A memory that has the logits of a kept row, in their real form and without numbers."""

    def __init__(self, method: Derpp, shape: Shape, vocabulary: int, live: Live) -> None:
        self._shape = min(shape.answers, shape.length - 1), min(method.logit_top_k or vocabulary, vocabulary)
        self._dtype = torch.float32 if method.logit_top_k is None else torch.float16
        self._live = live

    def read_ahead(self, sample: int) -> None: ...

    def logits(self, sample: int) -> TopLogits:  # noqa: ARG002 - they are all alike
        with self._live.part(TEACHER):
            ids = torch.zeros(self._shape, dtype=torch.int32)
            return TopLogits(ids, torch.zeros(self._shape, dtype=self._dtype))


def _divergence(call: AttentionCall, teacher: LayerTeacher, method: Seekr, shape: Shape, live: Live) -> Tensor:
    """The divergence of a layer, its kernel stood in for by the tensors that it makes."""
    with live.part(TEACHER):
        stored = round(attention_bytes(teacher, method.teacher_form))
        loaded = [torch.empty(stored, dtype=torch.uint8) for _ in range(shape.rows)]
    with live.part(DISTILLATION):
        heads = torch.zeros(teacher.heads, dtype=torch.long)
        positions = None if teacher.queries == shape.length else torch.zeros(teacher.queries, dtype=torch.long)
        targets = [
            SampleTeacher(row, (0, shape.length), heads, positions, rows)  # type: ignore[arg-type]
            for row, rows in enumerate(loaded)
        ]
        return divergence_by(_kernel, call, targets).sum()


def _kernel(call: AttentionCall, target: SampleTeacher, _: bool) -> tuple[Tensor, Gradients]:
    """What the PyTorch definition of the divergence makes of one sample: vectors in float32, blocks of scores."""
    heads, length, size = len(target.heads), target.span[1] - target.span[0], call.query.shape[-1]
    queries = length if target.positions is None else len(target.positions)
    vectors = [torch.empty((heads, count, size)) for count in (queries, length) for _ in ("student", "teacher")]
    block = min(block_size(heads, length), queries)
    scores = [torch.empty((heads, block, length)) for _ in ("scores", "student", "teacher", "its exponential")]
    query, key = torch.empty((heads, queries, size)), torch.empty((heads, length, size))
    gradients = Gradients(query, key, target.heads, torch.empty(heads))
    del vectors, scores
    return torch.zeros(()), gradients


def _give_storage(model: nn.Module) -> None:
    """Puts tensors with a storage to be counted, and a device that autocast knows, in the place of meta tensors."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and id(old) not in made:  # tied weights are one
                    new: Tensor = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = Parameter(new, old.requires_grad) if isinstance(old, Parameter) else new
                tensors[name] = None if old is None else made[id(old)]  # type: ignore[assignment]
