"""A model without numbers: built from its configuration as a run builds it, and counted while it is used.

Nothing here is a formula of some family: tensors have a shape and no data, the code is the run's own, and what is alive
at a time is counted.
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

from seekr.attention.tap import AttentionCall, Tap
from seekr.errors import InputError
from seekr.methods import Method
from seekr.modeling.batches import MicroBatch, Row, StepKind
from seekr.modeling.flat_tensors import FlatTensors
from seekr.modeling.loading import parameter_count
from seekr.planning.live import WEIGHTS, Live
from seekr.planning.rows import Shape

BEFORE = "model before the task"
OPTIMIZER = "optimizer state"
UNPADDED = "seekr_unpadded"
"""The name of sdpa without a mask, which it is given where no row of a batch is padded."""

Bytes = dict[str, int]
"""Part → bytes."""


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
                with self._seeing(Shape(1, 2, 1, False)):
                    optimizer.step()
                tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
                return sum(tensor.nbytes for tensor in tensors)
            except Exception:  # an optimizer of another package, with kernels of its own
                return None
            finally:
                self.model.zero_grad(set_to_none=True)

    def calls(self) -> dict[int, AttentionCall]:
        """The attention calls of one short forward, layer by layer: their heads, sizes and dtypes."""
        shape = Shape(1, 8, 1, False)
        with self.counting(shape), torch.no_grad(), self.precision(), Tap(self.model) as tap:
            self.model(**self.batch("task", shape).inputs, use_cache=False)
        return tap.calls

    @property
    def text(self) -> Any:
        """The configuration of the text model."""
        return self.model.config.get_text_config()

    @property
    def trained_bytes(self) -> int:
        """Bytes of what is trained, and of its gradients."""
        return sum(parameter.nbytes for parameter in self.model.parameters() if parameter.requires_grad)

    @contextmanager
    def counting(self, shape: Shape, *, masked: bool = False, checkpointing: bool = False) -> Iterator[Live]:
        """A block in which the model takes forwards and backwards of `shape`, and what is alive is counted.

        `masked`: whether attention is given a mask of padding. Steps of training give none.
        """
        with self._mode, self._attending(masked), self._checkpointing(checkpointing), self._seeing(shape) as live:
            yield live

    def batch(self, kind: StepKind, shape: Shape, signals: Mapping[str, Tensor] | None = None) -> MicroBatch:
        """A micro-batch of a step, with the teacher signals of its rows; to be made while counting."""
        rows: list[Row] = [(0, i) for i in range(shape.rows)]
        names = ("input_ids", "attention_mask", "position_ids", "labels")
        tensors = dict.fromkeys(names, torch.zeros((shape.rows, shape.length), dtype=torch.long))
        tensors |= {"weights": torch.ones(shape.rows), **(signals or {})}
        lengths, answers = ([count] * shape.rows for count in (shape.length, min(shape.answers, shape.length - 1)))
        return MicroBatch(kind, FlatTensors.of(tensors), rows, lengths, answers, 1, rows)

    def precision(self) -> torch.autocast:
        """The autocast of the run."""
        dtype = torch.float16 if self.arguments.fp16 else torch.bfloat16
        return torch.autocast("cpu", dtype=dtype, enabled=self.arguments.bf16 or self.arguments.fp16)

    def _seeing(self, shape: Shape) -> Live:
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
