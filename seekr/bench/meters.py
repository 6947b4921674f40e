"""Seconds and bytes of a piece of work, on a CPU or a GPU; works in turn, and their ratios, pair by pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TypeVar

import torch

from seekr.scoring.uncertainty import half_interval

TURNS = 12

Name = TypeVar("Name")
Found = TypeVar("Found")


def in_turn(
    works: Mapping[Name, Callable[[], Found]], turns: int, fewer: Mapping[Name, int] | None = None
) -> dict[Name, list[Found]]:
    """What each work gives in every turn, so that a machine whose speed drifts slows all of them alike.

    Args:
        works: done one after the other in each of `turns`, after a turn that is not counted.
        fewer: the turns of those that have fewer: the first ones.
    """
    found: dict[Name, list[Found]] = {name: [] for name in works}
    for turn in range(1 + turns):
        for name, work in works.items():
            if turn <= (fewer or {}).get(name, turns):
                one = work()
                found[name] += [one] * bool(turn)
    return found


def ratio(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the ratios turn by turn, and half of its 95% interval; None for fewer than four turns."""
    ratios = [one / other for one, other in zip(seconds, base, strict=False)]
    return mean(ratios), half_interval(ratios) if len(ratios) >= 4 else None


def held_bytes(device: str) -> int:
    """What this process holds now: resident memory, or what torch has given out on a GPU."""
    return _status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()


def peak_bytes(device: str) -> int:
    """The most of that since `reset_peak`."""
    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def reset_peak(device: str) -> None:
    """Begins to look for a new most."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes, a GPU being idle before and after it."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _status(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}; the bench runs on Linux")
