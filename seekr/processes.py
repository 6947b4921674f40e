"""One process of several, as `accelerate launch` starts them: the main one writes, the others wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def process_count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return process_index() == 0


def wait_for_all() -> None:
    """Returns when every process has come this far."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[bool]:
    """The main process does the block, the others come when it is done; yields whether this is the main one."""
    if is_main():
        yield True
        wait_for_all()
    else:
        wait_for_all()
        yield False
