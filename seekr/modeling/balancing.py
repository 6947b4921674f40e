"""The balancing loss of a mixture of experts, as one loss of an optimizer step.

Transformers adds it to the loss of each forward where a model's config.json says `output_router_logits: true`. It is a
product of two means over tokens: how many an expert is sent, and how likely it was. Computed for each part of a step by
itself it would depend on how the step is cut up. Here both means are over all tokens of the step.

Source: Switch Transformers, Fedus et al., arXiv 2101.03961, equations 4 to 6; over all layers together and with the
k experts of each token, as transformers has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import transformer_of
from seekr.modeling.packing import task_logits

PART = "balance"
"""What the loss is called among the parts of a step's loss."""


_PARAMETERS = ["gate_logits", "num_experts", "top_k", "attention_mask"]
"""Of the function by which a family computes it, if it is this one."""


@dataclass(frozen=True)
class Experts:
    """What a model says of its experts: how many, how many of them a token is sent to, and the weight of the loss."""

    count: int
    per_token: int
    weight: float

    def load(self, routers: Sequence[Tensor], counted: Tensor) -> Tensor:
        """[experts + 1]: tokens sent to each expert, then tokens, both summed over the layers.

        Args:
            routers: of each layer, what its router gives for each token, [tokens, experts].
            counted: [tokens] bool.
        """
        chosen = [router[counted].float().softmax(-1).topk(self.per_token, -1).indices.flatten() for router in routers]
        sent = torch.cat(chosen).bincount(minlength=self.count)
        return torch.cat([sent, counted.sum()[None] * len(routers)]).double()

    def loss(self, routers: Sequence[Tensor], counted: Tensor, load: Tensor) -> Tensor:
        """The share that these tokens have in the loss of a step, whose `load` is that of all its tokens. Tensor[]."""
        with torch.autocast(counted.device.type, enabled=False):
            likely = torch.stack([router[counted].float().softmax(-1).sum(0) for router in routers]).sum(0)
            sent, tokens = load[:-1].float(), load[-1].float().clamp(min=1)
            return self.weight * self.count * (sent / tokens * likely / tokens).sum()


def experts_of(model: nn.Module, *, compiled: bool = False) -> Experts | str | None:
    """The experts of a model that asks for balance; a line that says why they are not balanced; None = it has none.

    `compiled`: whether the model is trained by torch.compile.
    """
    inner = transformer_of(model)
    own_loss = None if inner is None else getattr(sys.modules[type(inner).__module__], "load_balancing_loss_func", None)
    if inner is None or own_loss is None:
        return None
    config: Any = inner.config.get_text_config()
    weight = getattr(inner, "router_aux_loss_coef", None)
    if not getattr(config, "output_router_logits", False):
        if not weight:
            return None
        return (
            "the experts are not balanced while it is trained: its config.json has output_router_logits false; true "
            f"makes {weight:g} times the balancing loss part of the task loss"
        )
    if weight == 0:
        return None
    count, per_token = (getattr(inner, name, None) for name in ("num_experts", "num_experts_per_tok"))
    if None in (weight, count, per_token) or list(signature(own_loss).parameters) != _PARAMETERS:
        return "the balancing loss of its experts is left out: this family has one of its own kind"
    if hasattr(model, "prompt_encoder"):
        return "the balancing loss of its experts is left out: the model stays frozen, prompts alone are learned"
    if compiled:
        return "the balancing loss of its experts is left out: torch_compile does not show what routers give"
    return Experts(int(cast(Any, count)), int(cast(Any, per_token)), float(cast(Any, weight)))


class Balancer:
    """Adds the balancing loss to the task losses of a trainer."""

    def __init__(self, experts: Experts, accelerator: Accelerator) -> None:
        self.experts = experts
        self.accelerator = accelerator
        self._load: Tensor | None = None  # of the step, where it has several micro-batches

    @torch.no_grad()
    def look_ahead(self, model: nn.Module, batches: Sequence[MicroBatch]) -> None:
        """Takes the load of a step that has several micro-batches, by a forward of each that is done without gradients.

        All processes call it; random state stays as it was.
        """
        self._load = None
        if len(batches) < 2 or batches[0].kind != "task":
            return
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loads = []
            for batch in (batch.to(device) for batch in batches):
                with _routers(model) as routers:
                    task_logits(model, batch)
                loads.append(self.experts.load(routers, _counted(batch, len(routers[0]))))
        self._load = self.accelerator.reduce(torch.stack(loads).sum(0), "sum")

    def task_loss(
        self, losses: Callable[[nn.Module, MicroBatch], dict[str, Tensor]], model: nn.Module, batch: MicroBatch
    ) -> dict[str, Tensor]:
        """What `losses` gives for a micro-batch, and its share of the balancing loss. All processes call it."""
        with _routers(model) as routers:
            parts = losses(model, batch)
        counted = _counted(batch, len(routers[0]))
        load = self._load
        if load is None:
            load = self.accelerator.reduce(self.experts.load([router.detach() for router in routers], counted), "sum")
        return parts | {PART: self.experts.loss(routers, counted, load)}


@contextmanager
def _routers(model: nn.Module) -> Iterator[list[Tensor]]:
    """Filled, after the first forward, with what the router of each layer gave, [tokens, experts]."""
    inner = transformer_of(model)
    assert inner is not None
    found: list[Tensor] = []

    def take(_: nn.Module, __: Any, output: Any) -> None:
        if not found:
            found.extend(router.flatten(0, -2) for router in output.router_logits if router is not None)

    with inner.register_forward_hook(take):
        yield found


def _counted(batch: MicroBatch, tokens: int) -> Tensor:
    """[tokens] bool: those of a forward that are real and of rows that count; the forward may have packed its rows."""
    real = (batch.inputs["attention_mask"] * batch.weights[:, None]) > 0
    if batch.layout is None or real.numel() == tokens:
        return real.flatten()
    packed = torch.zeros(tokens, dtype=torch.bool, device=real.device)
    packed[batch.tensors["packed/places"][real]] = True
    return packed


_NOTE = "seekr_output_router_logits"
"""In the config.json of a saved model that asks for balance, where `output_router_logits` is false."""


@contextmanager
def without_balance(model: nn.Module, *, noted: bool = False) -> Iterator[bool]:
    """The model as if it asked for no balance, which is for training: transformers computes the loss of every token
    that is generated, and fails where prompts are padded. Gives whether it asks for it; `noted`: its configuration
    says so by a key of ours, to be saved with it."""
    configs = [config for config in _text_configs(model) if getattr(config, "output_router_logits", False)]
    for config in configs:
        config.output_router_logits = False
        if noted:
            setattr(config, _NOTE, True)
    try:
        yield bool(configs)
    finally:
        for config in configs:
            config.output_router_logits = True
            vars(config).pop(_NOTE, None)


def ask_for_balance_again(model: nn.Module) -> None:
    """Has a model ask for balance that was saved as one that does."""
    for config in _text_configs(model):
        if vars(config).pop(_NOTE, False):
            config.output_router_logits = True


def _text_configs(model: nn.Module) -> list[Any]:
    """The configurations of transformers' modules, each once: a whole model and its parts share one."""
    modules = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return list({id(config): config for config in (module.config.get_text_config() for module in modules)}.values())
