"""One process of several, as `accelerate launch` starts them: the main one writes, the others wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from seekr.errors import InputError


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


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


def refuse_sharding(method: str) -> None:
    """Raises InputError where each process holds only a part of the model, as accelerate says in the environment."""
    for key, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(key, "false").lower() == "true":
            raise InputError(
                f"method {method}: it needs whole weights and gradients, and {name} cuts them up; "
                "use data parallelism (plain `accelerate launch`), or another method"
            )
