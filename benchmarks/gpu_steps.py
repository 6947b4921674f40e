"""Steps and rows that several parts of `on_a_gpu.py` measure."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch

from seekr.bench.shapes import SMALL, Shape
from seekr.bench.step import WAYS, step_rows

Row = dict[str, Any]


def step_that_fits(whole: Shape, length: int) -> list[Row]:
    """Without attention loss, with all queries and with 100, of the most layers that all three fit with."""
    ways = [way for way in WAYS if way[0] != "eager"]
    for count in range(whole.layers, 0, -4):
        shape = replace(whole, layers=count, chosen=(max(1, count * 3 // 4), count * 4))  # as 24 and 128 are of 32
        try:
            rows = step_rows(shape, length, ways, apart=False)
        except torch.OutOfMemoryError:
            rows = [{"seconds": None}]
        if all(row["seconds"] for row in rows):
            return [row | {"layers": count} for row in compared(rows)]
        gc.collect()
        torch.cuda.empty_cache()
    raise RuntimeError("not even the fewest layers fit")


def tiny_shape(device: str) -> Shape:
    sizes = {"layers": 2, "heads": 8, "key_heads": 2, "head_size": 16, "vocabulary": 300, "chosen": (1, 4)}
    return replace(SMALL, name="tiny", device=device, **sizes)


def compared(rows: list[Row]) -> list[Row]:
    """With what each row is of the first, of the same run: seconds, and bytes where they are known."""
    keys = [key for key in ("seconds", "peak_bytes") if all(row[key] for row in rows)]
    return [row | {f"times_{key}": row[key] / rows[0][key] for key in keys} for row in rows]
