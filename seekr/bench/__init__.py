"""What the attention work costs on this machine: time, memory and bytes, each beside what it replaces."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seekr.bench.bytes import bytes_rows
from seekr.bench.sensitivity import sensitivity_rows
from seekr.bench.step import step_rows
from seekr.bench.tables import Cells, bytes_cells, sensitivity_cells, step_cells
from seekr.disk import write_json


def run_bench(json_file: Path | None = None) -> dict[str, Any]:
    """Measures everything, prints the tables, and writes `{"machine": ..., "rows": [...]}` where a file is named."""
    console = Console()
    machine = describe_machine()
    console.print(f"machine: {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")
    rows = bytes_rows()
    _print(console, bytes_cells(rows))
    steps = step_rows(console)
    _print(console, step_cells(steps))
    rows += steps
    timed = sensitivity_rows()
    _print(console, sensitivity_cells(timed))
    result = {"machine": machine, "rows": rows + timed}
    if json_file is not None:
        write_json(json_file, result)
    return result


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and versions: what a figure is worth nothing without."""
    import torch
    import transformers

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
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _print(console: Console, cells: Cells) -> None:
    table = Table(title=cells.title)
    for heading in cells.headings:
        table.add_column(heading, justify="right")
    for row in cells.rows:
        table.add_row(*row)
    console.print(table)
