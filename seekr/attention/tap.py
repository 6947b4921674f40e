"""Standing in for the attention function of a model: to read what every call is given and gives, or to change it.

transformers hands every attention function the queries and keys after rotary embedding and before the key/value heads
are repeated. The tap is such a function: it delegates to the implementation that the model already uses and keeps
references to the tensors that pass (a copy of sinks, and under autocast queries and keys as it makes them), without
changing a bit of what the model computes. Outside the `with` block the model is exactly what it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seekr.errors import InputError


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one layer turns queries and keys into a map: scores `softcap·tanh(scaling·q·k / softcap)` over the keys
    j ≤ i with i − j < window."""

    scaling: float
    window: int | None = None
    softcap: float | None = None


@dataclass(slots=True)
class AttentionCall:
    """What one attention layer was given and gave in one forward.

    Attributes:
        query: [samples, heads, length, head_dim], after rotary embedding.
        key: [samples, key_value_heads, length, head_dim], after rotary embedding, not repeated.
        value: [samples, key_value_heads, length, value_dim].
        output: [samples, length, heads, value_dim], before the output projection.
        geometry: scaling, sliding window and soft cap.
        sink: [heads], the learned logit of an extra key without a value (gpt-oss), or None.
        mask: what the model passed as its attention mask (None, boolean or additive).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    geometry: Geometry
    sink: Tensor | None
    mask: Tensor | None


Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""(module, query, key, value, mask, **more) → output [samples, length, heads, value_dim], weights or None."""


class StandIn:
    """Inside a `with` block it is called in place of the attention function of `model`, which is a causal LM of
    transformers, wrapped by peft or DDP or not, whose attention goes through the attention interface.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {id(module) for module in model.modules()}
        self._configs = attention_configs(model)
        self._implementations: list[str] = []

    def __enter__(self) -> Self:
        self._implementations = [config._attn_implementation for config in self._configs]
        names = [_tapped(implementation) for implementation in self._implementations]
        for config, name in zip(self._configs, names, strict=True):
            # The internal name, as the setter of a config would also overwrite its sub-configs.
            config._attn_implementation_internal = name
        _OPEN.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _OPEN.remove(self)
        for config, implementation in zip(self._configs, self._implementations, strict=True):
            config._attn_implementation_internal = implementation

    def attend(
        self, delegate: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What a call of the model's attention gives; `delegate` is the function that it would have been."""
        raise NotImplementedError


class Tap(StandIn):
    """Records the attention calls of `model` made inside a `with` block.

    Args:
        model: a causal LM of transformers (or one wrapped by peft or DDP) whose attention goes through the
            attention interface.
        layers: the layers to record (counted from 0); None records all.
        consume: called with (layer, call) at each call; the call is then not kept.

    Attributes:
        calls: layer → AttentionCall, the first call of each layer (the recomputation of gradient checkpointing
            comes second and is not recorded).
        again: the layers that were called more than once.

    Raises:
        InputError: for reentrant gradient checkpointing, which runs the forward without a graph, so that gradients to
            what is recorded would be lost without a word.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Collection[int] | None = None,
        consume: Callable[[int, AttentionCall], None] | None = None,
    ) -> None:
        self.calls: dict[int, AttentionCall] = {}
        self.again: set[int] = set()
        self._layers = None if layers is None else frozenset(layers)
        self._consume = consume
        self._seen: set[int] = set()
        if torch.is_grad_enabled() and any(_checkpoints_reentrantly(module) for module in model.modules()):
            raise InputError(
                "gradient_checkpointing: the reentrant kind loses the gradients of attention; "
                "set gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        super().__init__(model)

    def __enter__(self) -> Self:
        self.calls.clear()
        self.again.clear()
        self._seen.clear()
        return super().__enter__()

    def attend(
        self, delegate: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        output, weights = delegate(module, query, key, value, mask, **kwargs)
        if torch.is_grad_enabled() and self._consume is not None and not output.requires_grad:
            # With frozen weights nothing upstream asks for a gradient; whoever consumes calls may.
            output.requires_grad_()
        scaling = kwargs.get("scaling")
        geometry = Geometry(
            scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            window=kwargs.get("sliding_window") or None,
            softcap=kwargs.get("softcap"),
        )
        query, key = _as_attended(query), _as_attended(key)
        # The one weight among them: where weights are sharded, it is freed after its layer.
        sink = None if kwargs.get("s_aux") is None else kwargs["s_aux"].clone()
        self._record(module, AttentionCall(query, key, value, output, geometry, sink, mask))
        return output, weights

    def _record(self, module: nn.Module, call: AttentionCall) -> None:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int):
            return
        if layer in self._seen:
            self.again.add(layer)
            return
        if self._layers is not None and layer not in self._layers:
            return
        self._seen.add(layer)
        if self._consume is None:
            self.calls[layer] = call
        else:
            self._consume(layer, call)


_OPEN: list[StandIn] = []
_NAMES: dict[str, str] = {}


def _checkpoints_reentrantly(module: nn.Module) -> bool:
    if not (module.training and getattr(module, "gradient_checkpointing", False)):
        return False
    settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    return bool(settings.get("use_reentrant", False))


def attention_configs(model: nn.Module) -> list[Any]:
    """The configurations that name the attention of parts of a model, each once."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return list({id(c): c for c in configs if hasattr(c, "_attn_implementation_internal")}.values())


def _tapped(implementation: str | None) -> str:
    """The registered name of the function that stands in for `implementation`.

    The name is plain, because models look for "flash", "sdpa" and the like inside it.
    """
    implementation = implementation or "eager"
    if implementation in _NAMES.values():
        raise RuntimeError("this model is being read by another tap; close that one first")
    if implementation not in _NAMES:
        name = f"seekr{len(_NAMES)}"

        def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
            return _attend(implementation, module, query, key, value, mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS.register(name, attend)
        if implementation in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
        _NAMES[implementation] = name
    return _NAMES[implementation]


def _attend(
    implementation: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    delegate = _delegate(implementation, module)
    stand_in = next((one for one in _OPEN if id(module) in one._modules), None)
    if stand_in is None:
        return delegate(module, query, key, value, mask, **kwargs)
    return stand_in.attend(delegate, module, query, key, value, mask, **kwargs)


def _as_attended(tensor: Tensor) -> Tensor:
    """Queries or keys in the dtype of autocast: rotary embedding leaves them in float32, attention takes them so."""
    device = tensor.device.type
    half = torch.is_autocast_enabled(device) and tensor.dtype == torch.float32
    return tensor.to(torch.get_autocast_dtype(device)) if half else tensor


def _delegate(implementation: str, module: nn.Module) -> Attend:
    if implementation != "eager":
        return ALL_ATTENTION_FUNCTIONS[implementation]
    # "eager" is no entry of the registry: every modeling file has a function of its own.
    for kind in type(module).__mro__:
        function = getattr(sys.modules[kind.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise InputError(f"{type(module).__name__} has no eager_attention_forward; load the model with another attention")


def layers_and_heads(model: nn.Module) -> tuple[int, int]:
    """(layers, attention heads per layer) of a causal LM, from its text configuration.

    Raises:
        InputError: for a model without attention heads, such as a state-space model.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise InputError(f"model: {config.model_type} has no attention heads; use method.name=derpp for this family")
    return int(config.num_hidden_layers), heads


def head_size(model: nn.Module) -> int:
    """Channels of a query or key of one head, from the text configuration of a causal LM."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
