"""A model without numbers: built from its configuration as a run builds it, and counted while it is used.

Nothing here is a formula of some family: tensors have a shape and no data, the code is the run's own, and what is alive
at a time is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, PretrainedConfig, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from seekr.attention.support import check_calls
from seekr.attention.tap import AttentionCall, Tap, attention_configs
from seekr.errors import InputError, said_by
from seekr.methods import Method
from seekr.modeling.loading import parameter_count
from seekr.planning.live import WEIGHTS, Live

BEFORE = "model before the task"
OPTIMIZER = "optimizer state"


class Paper:
    """The model that a run trains, on paper.

    Args:
        config: of the base model.
        method, arguments, lora, dtype: of the run.

    Attributes:
        attention: "sdpa", "eager", or another implementation, which is taken to hold what sdpa holds.
        checkpointing: whether activations are computed again in the backward.
        layers: the decoder layers.
        parameters, trained, stored: how many there are, are trained, and are in a stage's folder.

    Raises:
        InputError: where no model can be built from the configuration.
    """

    def __init__(
        self, config: PretrainedConfig, method: Method, arguments: TrainingArguments, *, lora: Any, dtype: str
    ) -> None:
        self.method, self.arguments = method, arguments
        flags = (getattr(arguments, f"{name}_checkpointing", False) for name in ("gradient", "activation"))
        self.checkpointing = any(flags)  # transformers has renamed the field
        text = config.get_text_config()
        self.vocabulary, self.heads = int(getattr(text, "vocab_size", 0)), int(getattr(text, "num_attention_heads", 1))
        with self.blank():
            try:
                model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=getattr(torch, dtype))
            except (ValueError, KeyError, ImportError, RuntimeError) as error:
                raise InputError(
                    f"model: no causal language model can be built from its configuration: {said_by(error)}"
                ) from None
            self.model = method.form.adapt(model.requires_grad_(True), lora)
        configs = attention_configs(self.model)
        self.attention = str(configs[0]._attn_implementation)
        for config in configs:
            config._attn_implementation_internal = "eager" if "eager" in self.attention else "sdpa"
        self.base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        if self.checkpointing:
            enable = getattr(self.base, "activation_checkpointing_enable", self.base.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        self.parameters = parameter_count(self.model)
        self.trained = parameter_count(self.model, trainable_only=True)
        self.stored = method.form.stored_parameters(self.model, self.trained)
        self.layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    @property
    def half(self) -> bool:
        """Whether autocast computes in 16 bits."""
        return bool(self.arguments.bf16 or self.arguments.fp16)

    @property
    def to_train(self) -> list[Parameter]:
        """What is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def optimizer_bytes(self) -> int | None:
        """Bytes of the optimizer's state, found by one step of it; None for one that takes no step on paper."""
        with self.blank():
            try:
                kind, options = Trainer.get_optimizer_cls_and_kwargs(self.arguments, self.model)
                options.pop("fused", None)  # of the same state
                optimizer = kind(self.to_train, **options)
                for parameter in self.to_train:
                    parameter.grad = torch.empty_like(parameter)
                optimizer.step()
                return sum(it.nbytes for of in optimizer.state.values() for it in of.values() if isinstance(it, Tensor))
            except Exception:  # an optimizer of another package, with kernels of its own
                return None
            finally:
                self.model.zero_grad(set_to_none=True)

    @cached_property
    def calls(self) -> dict[int, AttentionCall]:
        """Layer → its attention call in one short forward, for heads, sizes and dtypes; empty where the method reads no
        attention."""
        if not self.method.reads_attention:
            return {}
        with self.counting(8), torch.no_grad(), self.precision(), Tap(self.model) as tap:
            self.model(input_ids=torch.zeros((1, 8), dtype=torch.long), use_cache=False)
        check_calls(self.model, tap)
        return tap.calls

    @contextmanager
    def counting(self, length: int) -> Iterator[Live]:
        """A block in which the model takes forwards and backwards of rows of `length`, and what is alive is counted."""
        self.model.train()
        try:
            with self.blank(length) as live:
                live.know([*self.model.parameters(), *self.model.buffers()], WEIGHTS)
                yield live
        finally:
            self.model.zero_grad(set_to_none=True)

    def precision(self) -> torch.autocast:
        """The autocast of the run."""
        return torch.autocast("cpu", torch.float16 if self.arguments.fp16 else torch.bfloat16, enabled=self.half)

    def blank(self, length: int = 1) -> Live:
        """A block in which what is made has no numbers."""
        return Live(vocabulary=self.vocabulary, length=length, heads=self.heads)
