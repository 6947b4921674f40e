"""Half fine-tuning: half of the weights of every layer stay as they are, another half for each task."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Literal

import numpy as np
from peft import LoraConfig
from torch import nn
from torch.nn import Parameter

from seekr.errors import InputError
from seekr.methods.base import Method, Objective, TaskContext
from seekr.methods.form import ModelForm

Kind = Literal["attention", "feed-forward", "norm"]
Unit = list[Parameter]  # what is frozen or trained as one: a matrix with its bias, or a norm


class Halves(ModelForm):
    """The weights of the model itself, half of those of each layer frozen while a task is learned."""

    adapter = "none"

    def check_model(self, model: nn.Module, max_length: int | None, tasks: int) -> None:
        if not units_of_layers(model):
            raise InputError("method hft: this model has no numbered layers whose weights could be halved")

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        freeze_half(model, np.random.default_rng(0))  # for whoever counts; `start` draws the task's own half
        return model

    def trained(self, model: Any) -> Any:
        return model.requires_grad_(True)


class Hft(Method):
    """Fine-tunes a random half of the weights: θ_trained ← θ_trained − η ∇L, θ_frozen stays (eq. 1 of the paper).

    The paper's category-level choice, drawn by the run's seed and the task: in every layer two of the four attention
    matrices, half of the norms, and of the three feed-forward matrices two in one half of the layers and one in the
    other half. Layers of other families are halved in the same way; a fused matrix counts as one. What lies outside
    of the layers (embeddings, the last norm, the language head) is always trained.

    Source: Hui et al., Half Fine-Tuning for Large Language Models, arXiv 2404.18466.
    """

    name = "hft"
    form = property(Halves)

    def start(self, context: TaskContext) -> Objective:
        freeze_half(context.model, np.random.default_rng([context.seed, context.index]))
        return super().start(context)


def freeze_half(model: nn.Module, draw: np.random.Generator) -> None:
    """Freezes half of each layer's units of each kind; everything else is trained.

    Where a layer has an odd number of a kind, half of such layers train one more of them than they freeze.
    """
    model.requires_grad_(True)
    by_kind: dict[Kind, list[list[Unit]]] = defaultdict(list)
    for kinds in units_of_layers(model).values():
        for kind, units in kinds.items():
            by_kind[kind].append(units)
    for layers in by_kind.values():
        odd = [number for number, units in enumerate(layers) if len(units) % 2]
        spare = int(draw.integers(2))  # who gets the larger half where even such layers are odd in number
        fewer = set(draw.permutation(odd)[: (len(odd) + spare) // 2].tolist())
        for number, units in enumerate(layers):
            frozen = len(units) // 2 if number in fewer else (len(units) + 1) // 2
            for chosen in draw.permutation(len(units))[:frozen]:
                for parameter in units[chosen]:
                    parameter.requires_grad_(False)


def units_of_layers(model: nn.Module) -> dict[str, dict[Kind, list[Unit]]]:
    """Layer ("model.layers.0") → kind → its units, in the order of the model."""
    layers: dict[str, dict[Kind, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for name, module in model.named_modules():
        layer = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
        own = list(module.parameters(recurse=False))
        if layer is None or not own:
            continue
        matrices = [parameter for parameter in own if parameter.ndim > 1]
        rest = [parameter for parameter in own if parameter.ndim <= 1]
        if not matrices:
            layers[layer[0]]["norm"].append(rest)
            continue
        kind: Kind = "attention" if re.search(r"att(n|ention)", name.removeprefix(layer[0])) else "feed-forward"
        # Several matrices of one module (experts) are units of their own; a bias belongs to the first of them.
        layers[layer[0]][kind] += [[first, *rest] if first is matrices[0] else [first] for first in matrices]
    return layers
