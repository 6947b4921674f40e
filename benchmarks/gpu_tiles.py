"""The divergence's kernels by tiles of other sizes: cases of `on_a_gpu.py`."""

from __future__ import annotations

from typing import Any
from unittest import mock

from seekr.attention import divergence_triton
from seekr.bench.divergence import Case, divergence_rows

Tile = tuple[int, int, int, int]
"""(queries, keys, warps, stages) of a program."""

TILES: tuple[Tile, ...] = (
    (64, 64, 4, 3),
    (64, 64, 4, 2),
    (64, 32, 4, 3),
    (32, 64, 4, 3),
    (128, 64, 8, 3),
    (128, 64, 8, 2),
    (64, 128, 8, 2),
    (128, 128, 8, 2),
    (16, 64, 4, 3),
)


def with_tiles(tile: Tile, layer: Case, device: str) -> list[dict[str, Any]]:
    """The bench's rows of a layer, with `tile` for every dtype and head size."""
    with mock.patch.object(divergence_triton, "_block_sizes", return_value=tile):
        return [row | {"tile": tile} for row in divergence_rows(layer, device)]
