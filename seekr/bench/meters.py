"""Seconds and bytes of a piece of work, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def held_bytes(device: str) -> int:
    """What this process holds now: resident memory, or what torch has given out on a GPU."""
    import torch

    return _status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()


def peak_bytes(device: str) -> int:
    """The most of that since `reset_peak`."""
    import torch

    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def reset_peak(device: str) -> None:
    """Begins to look for a new most."""
    import torch

    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes, a GPU being idle before and after it."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def own_code() -> Iterator[list[float]]:
    """Seconds, one number a call, that a CPU spends in the attention loss: reading teachers, forward and backward."""
    from seekr.attention import divergence
    from seekr.methods import seekr as method

    places: list[tuple[Any, str]] = [
        (method, "weighted_attention_divergence"),
        (divergence, "_scatter_gradients"),
    ]
    plain = [getattr(module, name) for module, name in places]
    seconds: list[float] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    for (module, name), function in zip(places, plain, strict=True):
        setattr(module, name, watched(function))
    try:
        yield seconds
    finally:
        for (module, name), function in zip(places, plain, strict=True):
            setattr(module, name, function)


def _status(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}; the bench runs on Linux")
