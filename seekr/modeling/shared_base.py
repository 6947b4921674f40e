"""Two states of one LoRA model on one base: what is not trained is in memory once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from seekr.modeling.loading import with_saved_adapter

_CHANGES_BASE = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")
_LEAVES_BASE = (True, False, "gaussian", "orthogonal")


def shares_base(model: Any) -> bool:
    """Whether a model is its base, which was not changed, and one LoRA adapter, which is all that is trained."""
    if not isinstance(model, PeftModel) or len(model.peft_config) != 1:
        return False
    (settings,) = model.peft_config.values()
    if not isinstance(settings, LoraConfig) or any(getattr(settings, name, None) for name in _CHANGES_BASE):
        return False
    return settings.bias == "none" and settings.init_lora_weights in _LEAVES_BASE


def on_same_base(model: Any, adapter: Path | None) -> Any:
    """The base of `model`, which `shares_base`, with a saved adapter in place of its own, or with none; frozen.

    Weights of the base are those of `model`, not copies. Raises InputError as `with_saved_adapter`.
    """
    frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    base = copy.deepcopy(model, frozen).unload()
    if adapter is not None:
        base = with_saved_adapter(base, adapter, trainable=False)
    return base.eval().requires_grad_(False)
