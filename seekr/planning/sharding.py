"""What a step needs on each of several devices: whole copies (DDP), or parameters in parts (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from seekr.planning.live import CASTS, GRADIENTS, WEIGHTS, Bytes
from seekr.planning.paper import BEFORE, OPTIMIZER

if TYPE_CHECKING:
    from torch import nn

    from seekr.planning.paper import Paper

BUCKETS = "DDP's gradient buckets"
GATHERED = "layers gathered by FSDP2"
TIGHT = 0.9
"""The share of a device above which a plan is called tight: allocator and CUDA context take their part too."""


@dataclass(frozen=True)
class Way:
    """One way to train: what is trained, with or without checkpointing, how it is spread; bytes of its largest phase.

    `phase`: which moment of the run needs most.
    """

    trains: str
    checkpointing: bool
    sharding: str
    phase: str
    parts: Bytes

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def verdict(self, memory: int) -> str:
        """Whether it fits a device of `memory` bytes."""
        share = self.total / memory
        return "no" if share > 1 else "tight" if share > TIGHT else "yes"


def ways(paper: Paper, phases: Mapping[str, Bytes], *, trains: str, checkpointing: bool, devices: int) -> list[Way]:
    """Whole copies, and on several devices parts too."""
    spread = {"one device": phases}
    if devices > 1:
        spread = {
            "DDP": {name: _replicated(paper, parts) for name, parts in phases.items()},
            "FSDP2": {name: _sharded(paper, parts, devices) for name, parts in phases.items()},
        }
    found = []
    for sharding, each in spread.items():
        phase = max(each, key=lambda name: sum(each[name].values()))
        found.append(Way(trains, checkpointing, sharding, phase, each[phase]))
    return found


def _replicated(paper: Paper, parts: Bytes) -> Bytes:
    """DDP averages gradients in buckets of its own, as many bytes again."""
    trained = sum(p.nbytes for p in paper.model.parameters() if p.requires_grad)
    return parts | ({BUCKETS: trained} if OPTIMIZER in parts else {})


def _sharded(paper: Paper, parts: Bytes, devices: int) -> Bytes:
    """Parameters, gradients and optimizer state in parts; two layers and what stands outside of them whole for a while.

    While a step is taken FSDP2 gathers in the dtype of the computation, so that autocast's casts of all weights fall
    away. Models that are measured are gathered as they were loaded, and of what computes there is a cast.
    """
    shared = {WEIGHTS, GRADIENTS, OPTIMIZER, BEFORE}
    layers = [layer for layer in paper.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    half = paper.arguments.bf16 or paper.arguments.fp16
    one, rest = _largest_and_rest(paper.model, layers, half and BEFORE not in parts)
    gathered = rest + 2 * one
    if half and BEFORE in parts:
        gathered += sum(_largest_and_rest(paper.model, layers, half))
    if OPTIMIZER in parts:  # gradients of a layer are whole until they are summed over the devices
        gathered += max((_bytes(layer, half, trained=True) for layer in layers), default=0)
        gathered += _bytes(paper.model, half, trained=True) - sum(_bytes(layer, half, trained=True) for layer in layers)
    sharded = {
        name: -(-count // devices) if name in shared else count for name, count in parts.items() if name != CASTS
    }
    return sharded | {GATHERED: gathered}


def _largest_and_rest(model: nn.Module, layers: Sequence[nn.Module], half: bool) -> tuple[int, int]:
    """Bytes of the largest layer, and of what stands outside of the layers."""
    sizes = [_bytes(layer, half) for layer in layers]
    return max(sizes, default=0), _bytes(model, half) - sum(sizes)


def _bytes(module: nn.Module, half: bool, *, trained: bool = False) -> int:
    size = torch.bfloat16.itemsize
    return sum(
        p.numel() * (size if half else p.element_size()) for p in module.parameters() if p.requires_grad or not trained
    )
