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
from seekr.disk import write_json


def run_bench(json_file: Path | None = None) -> dict[str, Any]:
    """Measures everything, prints the tables, and writes `{"machine": ..., "rows": [...]}` where a file is named."""
    console = Console()
    machine = describe_machine()
    console.print(f"machine: {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")
    rows = bytes_rows()
    console.print(_bytes_table(rows))
    steps = step_rows(console)
    console.print(_step_table(steps))
    rows += steps
    timed = sensitivity_rows()
    console.print(_sensitivity_table(timed))
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


def _step_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="one optimizer step on a replay batch (medians; ratios to plain)")
    for name in ("length", "path", "queries", "seconds", "× plain", "peak MB", "× plain"):
        table.add_column(name, justify="left" if name == "path" else "right")
    plain = {row["length"]: row for row in rows if row["path"] == "plain"}
    for row in rows:
        base = plain[row["length"]]
        table.add_row(
            str(row["length"]),
            row["path"],
            "" if row["path"] != "seekr" else "all" if row["queries"] is None else str(row["queries"]),
            f"{row['seconds']:.3f}",
            f"{row['seconds'] / base['seconds']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['peak_bytes'] / base['peak_bytes']:.2f}",
        )
    return table


def _bytes_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="bytes of one replay sample: Llama-2-7B shape, 1024 tokens, 128 heads in 24 layers")
    for name in ("form", "queries", "MB", "released MB", "share", "loss error", "gradient cosine"):
        table.add_column(name, justify="left" if name == "form" else "right")
    for row in rows:
        table.add_row(
            row["form"],
            "all" if row["queries"] is None else str(row["queries"]),
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['released_bytes'] / 1e6:.1f}",
            f"{row['bytes'] / row['released_bytes']:.3f}",
            f"{row['loss_error']:.1e}",
            f"{row['gradient_cosine']:.5f}",
        )
    return table


def _sensitivity_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="sensitivity: time beyond forward and backward")
    for name in ("length", "seconds", "µs a token"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row["length"]), f"{row['seconds']:.4f}", f"{row['seconds'] / row['length'] * 1e6:.1f}")
    return table
