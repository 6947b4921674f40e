"""Sensitivity's own time, beyond the forward and backward that it needs anyway."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from seekr.attention.sensitivity import squared_norm
from seekr.bench.meters import timed

LENGTHS = (512, 1024, 2048, 4096, 8192)
REPEATS = 5


def sensitivity_rows() -> list[dict[str, Any]]:
    """The "sensitivity" rows: seconds that one sample's squared norms take in a layer of 8 heads of 64, median of 5.

    The work is the same in every layer, so one layer's time is the model's divided by its layers.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for length in LENGTHS:
        torch.manual_seed(0)
        gradient, values = (torch.randn(8, length, 64).to(device) for _ in range(2))
        work = partial(squared_norm, gradient, values, None)
        work()
        seconds = statistics.median(timed(work, device) for _ in range(REPEATS))
        rows.append({"what": "sensitivity", "device": device, "length": length, "seconds": seconds})
    return rows
