"""Grafting: a model attends by the maps of another state of it, and reads its own values by them.

With the donor's queries Q′ and keys K′ and the model's own values V, a grafted head h gives

    O_h = softmax(scaling · Q′_h K′_gᵀ + mask) V_g

in place of softmax(scaling · Q_h K_gᵀ + mask) V_g; g is the key/value head that h reads, h itself unless heads share
keys. No map is built: the donor's attention function is called with its own queries and keys, and with these values.

Source: the first experiment of SEEKR, arXiv 2411.06171, which puts old attention maps into a new model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from seekr.attention.support import probe
from seekr.attention.tap import Attend, StandIn, layers_and_heads
from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs


class Graft:
    """Inside a `with` block `model` has the donor's attention maps in some heads.

    Before each forward of the model the donor reads the same tokens. Where the model keeps keys and values of earlier
    tokens, as in `generate()`, the donor keeps its own; the first forward has to begin with an empty cache.

    Args:
        model: a causal LM of transformers, or one wrapped by peft, in evaluation mode.
        donor: another state of it, in evaluation mode and on the same device; another object. It gets no gradient.
        heads: layer → heads that are grafted; None = all. Where query heads share keys, a grafted one has the donor's
            query and the donor's shared keys, its neighbours that are not grafted keep their own of both; all of them
            read the model's shared values.

    Raises:
        InputError: where the two are no states of one model, or `heads` are not heads of it; in the first forward where
            attention does not go through transformers' attention interface, or the model is given embeddings in place
            of tokens.
    """

    def __init__(self, model: nn.Module, donor: nn.Module, heads: Mapping[int, Sequence[int]] | None = None) -> None:
        ours, theirs = _form(model), _form(donor)
        self._layers = range(ours["layers"])
        if different := [f"{name} {theirs[name]} and {ours[name]}" for name in ours if ours[name] != theirs[name]]:
            raise InputError(f"maps of another model cannot be put into this one: {', '.join(different)}")
        self._body, self._donor_body = _body(model), _body(donor)
        self._donor = _Donor(donor)
        self._recipient = _Recipient(model, self._donor.attend_by, _masks(model, heads))
        self._cache: Any = None
        self._donor_cache: Any = None
        self._stack = ExitStack()
        self.begun = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._donor)
            stack.enter_context(self._recipient)
            hook = self._body.register_forward_pre_hook(self._read_first, with_kwargs=True)
            stack.callback(hook.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._cache = self._donor_cache = None
        self._donor.attend_by.clear()

    @torch.no_grad()
    def _read_first(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named.get("inputs_embeds") is not None:
            raise InputError("maps cannot be grafted where a model is given embeddings: the donor needs the tokens")
        cache = named.get("past_key_values")
        if cache is not None and cache is not self._cache:
            if cache.get_seq_length():
                raise InputError("past_key_values: the donor did not read what is in there; begin with an empty cache")
            self._cache, self._donor_cache = cache, copy.deepcopy(cache)
        own = {"past_key_values": None if cache is None else self._donor_cache}
        self.begun = True
        self._donor.attend_by.clear()
        self._donor_body(*arguments, **named | own)
        if missing := sorted(set(self._layers) - self._donor.attend_by.keys()):
            raise _unreachable(self._body, missing)


@torch.no_grad()
def check_graft(model: nn.Module, donor: nn.Module) -> None:
    """Tries on one small padded batch whether grafting no head leaves `model` as it is, bit for bit.

    Raises InputError where it does not, as where a model looks at the name of its attention implementation, and where
    attention does not go through transformers' attention interface.
    """
    inputs = model_inputs(probe(model))
    plain = model(**inputs, use_cache=False).logits
    with Graft(model, donor, {}) as graft:
        grafted = model(**inputs, use_cache=False).logits
        if not graft.begun:
            raise _unreachable(model, graft._layers)
    answers = inputs["attention_mask"].bool()
    if not torch.equal(plain[answers], grafted[answers]):
        raise InputError(
            f"model: {type(_body(model)).__name__} computes other values while its attention is stood in for (it looks "
            "at the name of its attention implementation), so that maps cannot be grafted"
        )


class _Donor(StandIn):
    """Keeps of every layer its attention, given other values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.attend_by: dict[int, Callable[[Tensor], Tensor]] = {}

    def attend(
        self, delegate: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int):
            self.attend_by[layer] = lambda values: delegate(module, query, key, values, mask, **kwargs)[0]
        return delegate(module, query, key, value, mask, **kwargs)


class _Recipient(StandIn):
    """Takes over what the donor's maps make of its values, in the heads of `masks`: layer → bool [heads]."""

    def __init__(
        self, model: nn.Module, attend_by: Mapping[int, Callable[[Tensor], Tensor]], masks: Mapping[int, Tensor]
    ) -> None:
        super().__init__(model)
        self.attend_by, self.masks = attend_by, masks

    def attend(
        self, delegate: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        layer: Any = getattr(module, "layer_idx", None)
        grafted = self.masks.get(layer)
        if grafted is None:
            return delegate(module, query, key, value, mask, **kwargs)
        theirs = self.attend_by[layer](value)
        if grafted.all():
            return theirs, None
        own, _ = delegate(module, query, key, value, mask, **kwargs)
        return torch.where(grafted[:, None], theirs, own), None


def _body(model: Any) -> nn.Module:
    """What reads the tokens, without the head that makes logits: called whichever way the model is."""
    body: nn.Module = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_decoder()
    return body


def _unreachable(model: nn.Module, layers: Sequence[int]) -> InputError:
    return InputError(
        f"model: layers {list(layers)} of {type(model).__name__} do not call their attention through transformers' "
        "attention interface, so that no maps can be grafted"
    )


def _form(model: Any) -> dict[str, Any]:
    """What two states of one model have in common."""
    text = model.config.get_text_config()
    try:
        layers, heads = layers_and_heads(model)
    except InputError:
        raise InputError(f"model: {text.model_type} has no attention heads whose maps could be grafted") from None
    found = {"family": text.model_type, "layers": layers, "heads": heads, "vocabulary": text.vocab_size}
    return found | {"key/value heads": getattr(text, "num_key_value_heads", None) or heads}


def _masks(model: Any, heads: Mapping[int, Sequence[int]] | None) -> dict[int, Tensor]:
    layers, width = layers_and_heads(model)
    device = next(model.parameters()).device
    chosen = {layer: range(width) for layer in range(layers)} if heads is None else heads
    masks = {}
    for layer, some in chosen.items():
        if not (0 <= layer < layers and all(0 <= head < width for head in some)):
            raise InputError(f"heads {list(some)} of layer {layer}: the model has {layers} layers of {width} heads")
        masks[layer] = torch.zeros(width, dtype=torch.bool, device=device)
        masks[layer][list(some)] = True
    return masks
