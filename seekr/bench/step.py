"""One optimizer step on a replay batch: without attention distillation, with it, and by built maps.

On a CPU each way lives in a process of its own, so that its memory high-water mark is its own; on a GPU, which tells
how much of it was given out, one model takes them all. Either way steps are taken in turn, so that a machine whose
speed drifts slows all of them alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from seekr.bench.shapes import Shape, Way

STEPS = 5
WAYS: tuple[Way, ...] = (("plain", None), ("seekr", None), ("seekr", 100), ("eager", None))

Step = Callable[[], dict[str, Any]]


def step_rows(
    shape: Shape, length: int, ways: Sequence[Way] = WAYS, *, apart: bool | None = None
) -> list[dict[str, Any]]:
    """The "step" rows: medians of STEPS steps (2 of built maps at 2048 on a CPU), after one that is not counted.

    `own_seconds` is what a CPU spent on attention distillation: reading teachers, its forward and backward. A way that
    does not fit the device has no seconds.

    Args:
        shape, length: the model, and tokens of a row.
        ways: a row for each.
        apart: whether each way has a process of its own; None = on a CPU.
    """
    from seekr.bench.worker import remember

    if apart is None:
        apart = shape.device == "cpu"
    with tempfile.TemporaryDirectory(prefix="seekr-bench-") as name:
        folder = Path(name)
        for queries in dict.fromkeys(queries for _, queries in ways):
            remember(folder / str(queries), shape, length, queries)
        with _in_turn(folder, shape, ways, apart) as steps:
            found: dict[Way, list[dict[str, Any]]] = {way: [] for way in ways}
            for turn in range(1 + STEPS):
                for way, step in steps.items():
                    slow = shape.device == "cpu" and way[0] == "eager" and length >= 2048
                    if turn <= (2 if slow else STEPS):
                        found[way].append(step())
    return [_row(shape, length, way, taken[1:]) for way, taken in found.items()]


def _row(shape: Shape, length: int, way: Way, taken: list[dict[str, Any]]) -> dict[str, Any]:
    row = {"what": "step", "model": shape.name, "device": shape.device, "length": length}
    row |= {"path": way[0], "queries": way[1], "seconds": None, "peak_bytes": None}
    if any(step["seconds"] is None for step in taken):
        return row
    own = [step["own_seconds"] for step in taken]
    return row | {
        "seconds": median(step["seconds"] for step in taken),
        "own_seconds": None if None in own else median(own),
        "own_share": None if None in own else median(step["own_seconds"] / step["seconds"] for step in taken),
        "peak_bytes": max(step["peak_bytes"] for step in taken),
        "all_seconds": [round(step["seconds"], 4) for step in taken],
    }


@contextmanager
def _in_turn(folder: Path, shape: Shape, ways: Sequence[Way], apart: bool) -> Iterator[dict[Way, Step]]:
    """What takes a step of each way."""
    if apart:
        processes = {way: _Process(folder, shape, way) for way in ways}
        try:
            yield {way: process.step for way, process in processes.items()}
        finally:
            for process in processes.values():
                process.close()
        return
    from seekr.bench.worker import Steps

    steps = Steps(folder, shape, list(ways))
    yield {way: partial(steps.step, way) for way in ways}


class _Process:
    """A process that takes a step whenever it is asked to."""

    def __init__(self, folder: Path, shape: Shape, way: Way) -> None:
        given = [str(folder), json.dumps(asdict(shape)), json.dumps(way)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "seekr.bench.worker", *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def step(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a bench process ended early with status {self._process.wait()}")
        return dict(json.loads(line))
