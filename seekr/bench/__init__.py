"""What the attention work costs on this machine: time and memory, next to those of what it replaces."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.table import Table

from seekr.bench.divergence import CASES, divergence_rows
from seekr.bench.sensitivity import sensitivity_rows
from seekr.bench.shapes import shapes_here
from seekr.bench.step import step_rows
from seekr.bench.tables import HEADINGS, bench_cells
from seekr.bench.task_step import task_step_rows
from seekr.disk.files import write_json
from seekr.progress import Terminal, bar
from seekr.report.terminal import FirstThatFits, plain_table

Measure = Callable[[], list[dict[str, Any]]]


def run_bench(json_file: Path | None = None) -> dict[str, Any]:
    """Measures everything, prints one table, and writes `{"machine": ..., "rows": [...]}` where a file is named.

    The file has every row as soon as it is known.
    """
    console = Terminal()
    machine = describe_machine()
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    console.print(f"machine: {where}; torch {machine['torch']}, transformers {machine['transformers']}")
    rows: list[dict[str, Any]] = []
    result = {"machine": machine, "rows": rows}
    for name, measure in measurements():
        with bar(name):
            rows += measure()
        if json_file is not None:
            write_json(json_file, result)
    console.print(FirstThatFits(lambda: bench_table(rows), lambda: bench_table(rows, wide=False)))
    return result


def measurements() -> list[tuple[str, Measure]]:
    """What there is to measure on this machine's device: a name, and what gives its rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = shapes_here()
    found: list[tuple[str, Measure]] = []
    for shape in shapes:
        for length in shape.lengths:
            found.append((f"steps of {shape.name}, {length} tokens", partial(step_rows, shape, length)))
    for case in CASES[device]:
        found.append((f"divergence of {case.name}", partial(divergence_rows, case, device)))
    task_step = partial(task_step_rows, shapes[0])
    return [*found, ("task step", task_step), ("sensitivity", sensitivity_rows)]


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and versions: what a figure is worth nothing without."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": pages,
        "system": platform.system(),
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def bench_table(rows: list[dict[str, Any]], *, wide: bool = True) -> Table:
    """All rows; × is over the first row of its case. The narrow form leaves the remarks out."""
    shown = len(HEADINGS) if wide else len(HEADINGS) - 1
    table = plain_table("")
    for heading in HEADINGS[:shown]:
        number = heading.startswith(("×", "time", "bytes"))
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for cells in bench_cells(rows):
        table.add_row(*cells[:shown])
    return table
