"""One process of several, as `accelerate launch` starts them: each does its part, the main one says and writes most."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from seekr.errors import InputError, say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other: while the main one saves a large model, or one reads it from slow disks."""


def process_count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that speaks, and writes what is written once."""
    return process_index() == 0


def say_once(text: str) -> None:
    """A line on stderr, by the main process."""
    if is_main():
        say(text)


def connect() -> None:
    """Joins the processes of a launch, before any of them could fail alone; without a launch it does nothing.

    On an accelerator what lies in CPU memory can be exchanged too, so that nothing depends on the devices yet.
    Raises InputError where the launch does not say how to.
    """
    import torch
    import torch.distributed as distributed

    if process_count() == 1 or distributed.is_initialized():
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {process_count()}, but {', '.join(missing)} not set; start the processes by `accelerate "
            "launch`, or unset WORLD_SIZE"
        )
    device = None if on_cpu() else torch.accelerator.current_accelerator(check_available=True)
    backend = "gloo"
    if device is not None:
        backend = f"cpu:gloo,{device.type}:{distributed.get_default_backend_for_device(device)}"
    distributed.init_process_group(backend, timeout=TIMEOUT)


def disconnect() -> None:
    """Parts from the other processes of a launch, once all is done."""
    if process_count() > 1 and "torch" in sys.modules:
        import torch.distributed as distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def on_cpu() -> bool:
    """Whether the launch is one for the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "y", "on", "t")


def wait_for_all() -> None:
    """Returns when every process has come this far."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def own_share(count: int) -> range:
    """The places, of `count`, that are this process's to work on: one stretch, as long as the others' or one longer."""
    index, processes = process_index(), process_count()
    return range(index * count // processes, (index + 1) * count // processes)


def in_step(count: int, together: int = 1) -> Iterator[tuple[range, bool]]:
    """The places of this process's share of `count`, `together` at a time, and whether they count.

    All processes get equally many, as a sharded model is called by all of them at once: where a share has ended,
    its process runs along with the first place, which then does not count.
    """
    own = own_share(count)
    for start in range(0, -(-count // process_count()), together):
        places = own[start : start + together]
        yield (places, True) if places else (range(1), False)


def gathered(value: T) -> list[T]:
    """What each process gives, in their order, on all of them."""
    if process_count() == 1:
        return [value]
    import torch.distributed as distributed

    found: list[T | None] = [None] * process_count()
    distributed.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def of_main(value: T) -> T:
    """What the main process gives, on all of them."""
    if process_count() == 1:
        return value
    connect()
    return gathered(value)[0]


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum of a tensor over the processes, bit for bit the same on all; `tensor` may be overwritten.

    `device` is the process's own, by way of which the processes exchange tensors.
    """
    if process_count() == 1:
        return tensor
    import torch.distributed as distributed

    total = tensor.to(device)
    distributed.all_reduce(total)
    return total.to(tensor.device)


def spread(items: Sequence[T], work: Callable[[int, T], R]) -> list[R]:
    """What `work(place, item)` gives for each item, in their order, on all processes; each works on every n-th."""
    processes, index = process_count(), process_index()
    own = [work(place, item) for place, item in enumerate(items) if place % processes == index]
    parts = gathered(own)
    return [parts[place % processes][place // processes] for place in range(len(items))]
