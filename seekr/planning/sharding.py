"""What a step needs on each of several devices: whole copies (DDP), or sharded parameters (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from seekr.planning.live import CASTS, GRADIENTS, WEIGHTS, Bytes
from seekr.planning.paper import BEFORE, OPTIMIZER, Paper

BUCKETS = "DDP's gradient buckets"
GATHERED = "layers gathered by FSDP2"
TIGHT = 0.9
"""The share of a device above which a plan is called tight: allocator and CUDA context take their part too."""


@dataclass(frozen=True)
class Way:
    """One way to spread a run over devices; bytes of its largest phase.

    `phase`: which moment of the run needs most.
    """

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


def ways(paper: Paper, phases: Mapping[str, Bytes], devices: int) -> list[Way]:
    """Whole copies, and on several devices parts too. DDP averages gradients in buckets of its own, as many bytes."""
    spread = {"one device": phases}
    if devices > 1:
        buckets = {BUCKETS: sum(parameter.nbytes for parameter in paper.to_train)}
        spread = {
            "DDP": {name: parts | (buckets if OPTIMIZER in parts else {}) for name, parts in phases.items()},
            "FSDP2": {name: _sharded(paper, parts, devices) for name, parts in phases.items()},
        }
    largest = {sharding: max(each.items(), key=lambda it: sum(it[1].values())) for sharding, each in spread.items()}
    return [Way(sharding, phase, parts) for sharding, (phase, parts) in largest.items()]


def _sharded(paper: Paper, parts: Bytes, devices: int) -> Bytes:
    """Parameters, gradients and optimizer state sharded; two layers and what stands outside of them whole for a while.

    While a step is taken FSDP2 gathers in the dtype of the computation, so that autocast's casts of all weights fall
    away. Models that are measured are gathered as they were loaded, and of what computes there is a cast.
    """
    half, measuring = paper.half, BEFORE in parts
    parts = {**parts, BEFORE: parts[WEIGHTS]} if measuring else parts  # sharded models share no base
    one, rest = _largest_and_rest(paper, half and not measuring)
    gathered = rest + 2 * one
    if half and measuring:
        gathered += sum(_largest_and_rest(paper, half))
    if OPTIMIZER in parts:  # gradients of a layer are whole until they are summed over the devices
        gathered += sum(_largest_and_rest(paper, half, trained=True))
    shared = {WEIGHTS, GRADIENTS, OPTIMIZER, BEFORE}
    sharded = {
        name: -(-count // devices) if name in shared else count for name, count in parts.items() if name != CASTS
    }
    return sharded | {GATHERED: gathered}


def _largest_and_rest(paper: Paper, half: bool, *, trained: bool = False) -> tuple[int, int]:
    """Bytes of the largest layer, and of what stands outside of the layers; of what is `trained` alone."""
    sizes = [_bytes(layer, half, trained=trained) for layer in paper.layers]
    return max(sizes, default=0), _bytes(paper.model, half, trained=trained) - sum(sizes)


def _bytes(module: nn.Module, half: bool, *, trained: bool) -> int:
    size = torch.bfloat16.itemsize
    return sum(
        p.numel() * (size if half else p.element_size()) for p in module.parameters() if p.requires_grad or not trained
    )
