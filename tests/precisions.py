"""What may be around a computation and must not reach its numbers: autocast, and float32 products in fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """What TF32 is on a GPU: float32 matrices are multiplied in fewer bits, where the processor can."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


AUTOCAST: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", dtype=torch.float16),
}
AROUND = {**AUTOCAST, "bfloat16 products": bfloat16_products}


def assert_same_bits(numbers: Callable[[], list[Tensor]], around: str) -> None:
    """What `numbers` gives inside of one of `AROUND` is what it gives outside, to the bit."""
    expected = numbers()
    with AROUND[around]():
        found = numbers()
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
