"""O-LoRA: each task learns a LoRA adapter of its own, in a subspace that is kept orthogonal to those before it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import Tensor, nn

from seekr.errors import InputError
from seekr.methods.base import Method, Objective, TaskContext
from seekr.methods.form import ModelForm
from seekr.modeling.batches import MicroBatch
from seekr.modeling.loading import with_adapter
from seekr.modeling.precision import full_precision

_NEW = "default"  # the name under which peft writes an adapter into a folder itself, not into a subfolder
_PAST = "past"
_LORA_KEYS = (  # all others change what an adapter computes, so that two of them are no longer one of their joint rank
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
)  # fmt: skip


class LoraOfEachTask(ModelForm):
    """A new adapter, on those of the tasks before, all of which are one adapter once the task is learned."""

    adapter = "lora"

    def lora_settings(self, lora: dict[str, Any] | Literal[False] | None) -> dict[str, Any] | None:
        settings = super().lora_settings(lora)
        for key in settings or {}:
            if key in LoraConfig.__dataclass_fields__ and key not in _LORA_KEYS:
                raise InputError(f"lora.{key}: olora joins plain LoRA adapters; it takes {', '.join(_LORA_KEYS)} alone")
        return settings

    def adapt(self, model: Any, lora: LoraConfig | None) -> PeftModel:
        adapted: PeftModel = super().adapt(model, lora)
        if any(len(layer.lora_A) == 0 for layer in _layers(adapted)):
            raise InputError("lora.target_modules: olora adapts linear layers, no embeddings; leave those out")
        return adapted

    def load_trainable(self, base: str, weights: Path | None, *, dtype: str, lora: LoraConfig | None) -> PeftModel:
        model = super().load_trainable(base, None, dtype=dtype, lora=lora)
        if weights is not None:
            model.load_adapter(str(weights), _PAST, is_trainable=False)
            _activate(model)
        return model

    def stored_parameters(self, model: nn.Module, trained: int, tasks: int = 1) -> int:
        """Parameters of the last stage's adapter, the largest one."""
        return trained * tasks

    def trained(self, model: PeftModel) -> PeftModel:
        """All adapters as one, which any LoRA code can load."""
        new = get_peft_model_state_dict(model, adapter_name=_NEW, save_embedding_layers=False)
        past, ranks = {}, 1
        lora = cast(LoraConfig, copy.deepcopy(model.peft_config[_NEW]))
        if _PAST in model.peft_config:
            past = get_peft_model_state_dict(model, adapter_name=_PAST, save_embedding_layers=False)
            ranks += cast(LoraConfig, model.peft_config[_PAST]).r // lora.r
        # Scaling is alpha / r, and stays what it is; dropout was for the task's own training.
        lora.r, lora.lora_alpha, lora.lora_dropout = lora.r * ranks, lora.lora_alpha * ranks, 0.0
        joined = with_adapter(model.unload(), lora)
        set_peft_model_state_dict(joined, {key: _join(key, past.get(key), value) for key, value in new.items()})
        return joined


class Olora(Method):
    """Fine-tuning of a new LoRA adapter a task; the earlier ones stay active and frozen.

    The loss of a task step gets orthogonality_weight · Σ over modules and past tasks i of ‖A_i Aᵀ‖², the squares of
    all entries summed, with A = `lora_A` of the new adapter, [r, inputs]. A stage's model is one adapter of peft
    whose rank is r · tasks: its rows and columns are those of the tasks, one task after another.

    Args:
        orthogonality_weight: λ1 of the paper. The rank times the tasks has to be below the inputs of the narrowest
            module, else no subspace is left for a new task.

    Source: O-LoRA, Wang et al., arXiv 2310.14152, its loss as the paper has it: the squares of the entries of
        A_i Aᵀ, where the released code sums their absolute values. 0.5 is the released scripts' weight.
    """

    name = "olora"
    unplanned = "the adapters of earlier tasks next to the new one, in memory and in each forward"
    form = property(LoraOfEachTask)
    shards = False

    orthogonality_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5

    def start(self, context: TaskContext) -> Objective:
        objective = WithPast(self)
        if self.orthogonality_weight and _PAST in cast(Any, context.model).peft_config:
            objective.penalties["orthogonality"] = lambda model: self.orthogonality_weight * _overlap(model)
        return objective


class WithPast(Objective):
    """The loss with all adapters active."""

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        _activate(model)
        return super().task_loss(model, batch)


def _layers(model: nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _activate(model: nn.Module) -> None:
    """Past adapters add to the output and do not learn; a Trainer that resumes leaves the new one active alone."""
    for layer in _layers(model):
        if _PAST in layer.lora_A and layer.active_adapters != [_NEW, _PAST]:
            layer.set_adapter([_NEW, _PAST])
            layer.lora_A[_PAST].requires_grad_(False)
            layer.lora_B[_PAST].requires_grad_(False)


@full_precision()
def _overlap(model: nn.Module) -> Tensor:
    """Σ over modules of the squared entries of A_past A_newᵀ, float32."""
    layers = [layer.lora_A for layer in _layers(model)]
    pairs = [(cast(Tensor, one[_PAST].weight), cast(Tensor, one[_NEW].weight)) for one in layers]
    return torch.stack([(past.float() @ new.float().T).square().sum() for past, new in pairs]).sum()


def _join(key: str, past: Tensor | None, new: Tensor) -> Tensor:
    return new if past is None else torch.cat([past, new], dim=0 if "lora_A" in key else 1)
