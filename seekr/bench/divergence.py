"""The attention divergence and the attention that it reads: forward and backward of both, of the same heads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from seekr.attention.backend import divergence_on
from seekr.attention.divergence import SampleTeacher
from seekr.attention.rows import QueryKeyRows
from seekr.attention.tap import AttentionCall, Geometry
from seekr.bench.meters import TURNS, held_bytes, in_turn, peak_bytes, reset_peak, timed


@dataclass(frozen=True)
class Case:
    """One layer of one sample: all of its heads, every query, the teacher's queries and keys in full."""

    heads: int
    key_heads: int
    size: int
    length: int

    @property
    def name(self) -> str:
        """What tells it from other cases."""
        return f"{self.heads} heads, {self.key_heads} of keys, {self.length} tokens"


CASES = {
    "cpu": [Case(8, 8, 64, length) for length in (512, 1024, 2048)],
    "cuda": [Case(32, key_heads, 128, length) for key_heads in (32, 8) for length in (2048, 4096, 32768)],
}


def divergence_rows(case: Case, device: str) -> list[dict[str, Any]]:
    """The "divergence" rows: medians of TURNS turns.

    `operations` counts products of two length × length halves and head vectors, 2 a multiply-add, recomputation
    included: attention's backward computes its scores again; the kernels compute the scores of both maps three times.
    `built_bytes` is what both maps of these heads take in the dtype of the queries.
    """
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    counts = (case.heads, case.key_heads, case.key_heads)
    student, teacher = (
        [torch.randn(1, count, case.length, case.size, device=device).to(dtype) for count in counts] for _ in range(2)
    )
    query, key, value = (tensor.requires_grad_() for tensor in student)
    geometry = Geometry(case.size**-0.5)
    calls = [AttentionCall(one[0], one[1], one[2], one[2], geometry, None, None) for one in (student, teacher)]
    heads, span = torch.arange(case.heads), (0, case.length)
    target = SampleTeacher(0, span, heads, None, QueryKeyRows.of_call(calls[1], 0, span, heads))
    divergence = divergence_on(torch.device(device), dtype, case.size)

    # On a GPU a short one is over sooner than it is begun.
    calls_a_turn = 1 if device == "cpu" else max(1, 10 * 4096 // max(case.length, 4096))

    def attend() -> None:
        for _ in range(calls_a_turn):
            with nullcontext() if device == "cpu" else sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                grouped = case.key_heads < case.heads
                output = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
            torch.autograd.grad(output, (query, key, value), torch.ones_like(output))

    def compare() -> None:
        for _ in range(calls_a_turn):
            torch.autograd.grad(divergence(calls[0], [target]).sum(), (query, key))

    by_kernels = divergence.__module__.endswith("triton")
    # Of length × length / 2 entries; attention: 2 forward, 5 backward; PyTorch: both scores once, two gradients.
    products = {"attention": 7, "divergence": 8 if by_kernels else 4}
    before = held_bytes(device)

    def measured(work: Callable[[], None]) -> tuple[float, int]:
        reset_peak(device)
        seconds = timed(work, device) / calls_a_turn
        return seconds, peak_bytes(device) - before

    found = in_turn({"attention": partial(measured, attend), "divergence": partial(measured, compare)}, TURNS)
    product = 2 * case.heads * case.length * case.length / 2 * case.size
    common = {"what": "divergence", "device": device, "length": case.length, "heads": case.heads}
    common |= {"key_heads": case.key_heads, "head_size": case.size, "dtype": str(dtype).removeprefix("torch.")}
    return [
        common
        | {
            "path": name if name == "attention" else "kernels" if by_kernels else "pytorch",
            "seconds": median(seconds for seconds, _ in taken),
            "all_seconds": [seconds for seconds, _ in taken],
            "operations": product * products[name],
            # None on a CPU, where the process has memory to spare.
            "peak_bytes": None if device == "cpu" else max(peak for _, peak in taken),
            "built_bytes": 2 * case.heads * case.length**2 * dtype.itemsize,
        }
        for name, taken in found.items()
    ]
