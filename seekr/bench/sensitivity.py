"""Sensitivity's own time, beyond the forward and backward that it needs anyway."""

from __future__ import annotations

import statistics
import time
from typing import Any

LENGTHS = (512, 1024, 2048, 4096, 8192)
REPEATS = 5


def sensitivity_rows() -> list[dict[str, Any]]:
    """The "sensitivity" rows: seconds that one sample's squared norms take in a layer of 8 heads of 64, median of 5.

    The work is the same in every layer, so one layer's time is the model's divided by its layers.
    """
    import torch

    from seekr.attention.sensitivity import squared_norm

    rows = []
    for length in LENGTHS:
        torch.manual_seed(0)
        gradient, values = torch.randn(8, length, 64), torch.randn(8, length, 64)
        squared_norm(gradient, values, None)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            squared_norm(gradient, values, None)
            seconds.append(time.perf_counter() - start)
        rows.append({"what": "sensitivity", "length": length, "seconds": statistics.median(seconds)})
    return rows
