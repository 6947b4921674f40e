"""One optimizer step on a replay batch: without attention distillation, with it, and by built maps.

Each (path, length) lives in a process of its own, so that its memory high-water mark is its own; the processes of one
length take their steps in turn, so that a machine whose speed drifts slows all of them alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

LENGTHS = (512, 1024, 2048)
STEPS = 5
PATHS: tuple[tuple[str, int | None], ...] = (("plain", None), ("seekr", None), ("seekr", 100), ("eager", None))


def step_rows(console: Console) -> list[dict[str, Any]]:
    """The "step" rows: medians of STEPS steps (2 of built maps at 2048), after one step that is not counted."""
    from seekr.bench.worker import remember

    rows = []
    for length in LENGTHS:
        with tempfile.TemporaryDirectory(prefix="seekr-bench-") as folder:
            for queries in (None, 100):
                remember(Path(folder) / str(queries), length, queries)
            with console.status(f"length {length}"):
                rows += _length_rows(Path(folder), length)
    return rows


def _length_rows(folder: Path, length: int) -> list[dict[str, Any]]:
    steps = {path: 2 if path[0] == "eager" and length >= 2048 else STEPS for path in PATHS}
    workers = {path: _Worker(folder, length, *path) for path in PATHS}
    try:
        seconds: dict[tuple[str, int | None], list[float]] = {path: [] for path in PATHS}
        for turn in range(1 + STEPS):
            for path, worker in workers.items():
                if turn <= steps[path]:
                    seconds[path].append(worker.step())
        return [
            {
                "what": "step",
                "length": length,
                "path": path[0],
                "queries": path[1],
                "seconds": statistics.median(seconds[path][1:]),
                "peak_bytes": worker.peak(),
                "all_seconds": [round(value, 4) for value in seconds[path][1:]],
            }
            for path, worker in workers.items()
        ]
    finally:
        for worker in workers.values():
            worker.close()


class _Worker:
    """A process that takes a step whenever it is told to."""

    def __init__(self, folder: Path, length: int, path: str, queries: int | None) -> None:
        command = [sys.executable, "-m", "seekr.bench.worker", str(folder / str(queries)), str(length), path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._peak = 0
        self._answer()

    def step(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._peak = answer["peak_bytes"]
        return float(answer["seconds"])

    def peak(self) -> int:
        return self._peak

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a bench process ended early with status {self._process.wait()}")
        return dict(json.loads(line))
