"""A frozen, sharded model: each process holds a slice of every weight (PyTorch's `fully_shard`, FSDP2).

A layer is gathered while it computes and freed after it, so that every forward and every backward is one of all
processes together: they take as many of them each, see `processes.in_step`. Numbers are those of the whole model.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seekr.distributed.processes import gathered, process_count, process_index, wait_for_all

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_sharded(load: Callable[[], Any], device: torch.device) -> Any:
    """The frozen model that `load` reads into CPU memory, sharded over the devices of all processes.

    The processes of a machine read it one after another, so that one of them at a time holds it whole; a device never
    holds more of it than a layer, or what stands outside of its layers, as well as its own shard.
    """
    from torch.distributed.device_mesh import init_device_mesh

    gc.collect()  # sharded models refer to themselves, and an earlier one may still take up the device
    mesh = init_device_mesh(device.type, (process_count(),))
    place = int(os.environ.get("LOCAL_RANK", process_index()))
    model = None
    for turn in range(max(gathered(place)) + 1):
        if turn == place:
            model = _shard(load(), mesh).to(device)
        wait_for_all()
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether processes have to call the model in step."""
    if process_count() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def _shard(model: Any, mesh: Any) -> Any:
    from torch.distributed.fsdp import fully_shard
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer

    # What peft wraps around it is called past its wrapper, to generate.
    inner = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    if inner.supports_gradient_checkpointing:  # who has no room for the weights has none for all activations
        enable = getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    layers = [module for module in inner.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*reversed(layers), inner):  # from the innermost: each takes what is not taken yet
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model
