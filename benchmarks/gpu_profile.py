"""Where a replay step's time goes on a GPU, by PyTorch's profiler: a case of `on_a_gpu.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from seekr.attention.divergence import PROFILED
from seekr.bench.meters import timed
from seekr.bench.shapes import Shape
from seekr.bench.step import WAYS, Steps, remember

_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def profiled(shape: Shape, length: int) -> list[dict[str, Any]]:
    """One step of each way, after two that are not looked at. The profiler slows what starts kernels, not kernels.

    `busy` are the seconds that the GPU computes or copies in, so that the rest of `seconds` it waits; `own_share` is
    the part of the step that the host spends on attention distillation, `waits` those in which it waits for the GPU,
    `reading` the ones in which rows and teachers are read and moved, which are among `seconds` too.
    """
    ways = [way for way in WAYS if way[0] != "eager"]
    with tempfile.TemporaryDirectory(prefix="seekr-profile-") as name:
        for queries in dict.fromkeys(queries for _, queries in ways):
            remember(Path(name) / str(queries), shape, length, queries)
        steps = Steps(Path(name), shape, ways)
        for _ in range(2):
            for way in ways:
                steps.step(way)
        return [{"path": way[0], "queries": way[1], "length": length} | _profile(steps, way) for way in ways]


def _profile(steps: Steps, way: Any) -> dict[str, Any]:
    on_gpu = [ProfilerActivity.CUDA] * torch.cuda.is_available()
    reading = timed(lambda: steps.read(way), steps.device)
    with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as found:
        seconds = timed(lambda: steps.take(way), steps.device)
    events = found.key_averages()
    return {
        "seconds": seconds,
        "reading": reading,
        "busy": busy(found.events()),
        "waits": sum(event.self_cpu_time_total for event in events if event.key in _WAITS) / 1e6,
        "launches": sum(event.count for event in events if event.key in _LAUNCHES),
        "own_share": sum(event.cpu_time_total for event in events if event.key == PROFILED) / 1e6 / seconds,
    }


def busy(events: Iterable[Any]) -> float:
    """Seconds in which at least one kernel or copy runs on the GPU, of a profiler's events.

    Names that are given to a stretch of kernels last over the gaps between them too, and are left out.
    """
    works = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    total, reached = 0.0, float("-inf")
    for start, end in sorted((event.time_range.start, event.time_range.end) for event in works):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6
