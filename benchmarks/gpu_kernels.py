"""The Triton kernels of the divergence against its definition, over what models bring: the grid of `on_a_gpu.py`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import attention_definitions as by_definition
import torch
from test_divergence import GRADIENT_TOLERANCE, log_rows, moved, random_call, to

from seekr.attention import divergence, divergence_triton
from seekr.attention.divergence import SampleTeacher
from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import FORMS, StoredForm, decode, encode
from seekr.attention.tap import Geometry

Sample = tuple[int, int | None, int, bool]
"""Tokens, window, key heads of 4 heads, and whether only every third query is compared."""

SAMPLES: tuple[Sample, ...] = (
    (1, None, 4, False),
    (35, 9, 2, True),
    (63, 50, 2, False),
    (129, None, 1, True),
    (257, 50, 4, False),
    (1271, None, 2, False),
    (1271, 300, 1, True),
)
LONG: tuple[Sample, ...] = ((32768, None, 2, False),)
VALUE_TOLERANCE = 1e-5
FLOOR = {"value": 3e-2}
"""Errors of a value that is 0 are measured by this, so that 3e-7 nats pass; those of gradients by 1e-6. Fused
multiply-adds of a GPU leave 1.4e-7 of them in a row of one token."""


def grid(device: str, *, tiny: bool) -> list[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """Every dtype, head size and form; soft cap and sink by turns, and all four ways at the first dtype and size."""
    ways = list(product((None, 4.0), (False, True)))
    dtypes, sizes = (torch.bfloat16, torch.float16, torch.float32), (128, 64, 256)
    found: list[tuple[Any, ...]] = []
    for number, (dtype, size, form) in enumerate(product(dtypes, sizes, FORMS)):
        turn = (number + number // len(FORMS)) % len(ways)
        for softcap, sink in ways if number < len(FORMS) else ways[turn : turn + 1]:
            found.append((dtype, size, form, softcap, sink, SAMPLES))
    found += [(dtypes[0], 128, form, None, False, LONG) for form in ("exact", "top")]
    if tiny:
        found = [(torch.float32, 16, "exact", None, True, SAMPLES[:2]), (dtypes[0], 16, "top", 4.0, True, SAMPLES[1:2])]
    return [(name(*one), partial(compare, device, *one)) for one in found]


def name(
    dtype: torch.dtype, size: int, form: str, softcap: float | None, sink: bool, samples: tuple[Sample, ...]
) -> str:
    long = ", 32768 tokens" if samples == LONG else ""
    return f"{str(dtype).removeprefix('torch.')}, heads of {size}, {form}, soft cap {softcap}, sink {sink}{long}"


def compare(
    device: str,
    dtype: torch.dtype,
    size: int,
    form: StoredForm,
    softcap: float | None,
    sink: bool,
    samples: tuple[Sample, ...],
) -> list[dict[str, Any]]:
    """The largest errors over the samples: of values relative, of gradients as a share of the largest entry.

    Where teachers are kept whole the definition is float64's; for the other forms, and for long samples, it is what
    plain PyTorch makes in float32 of the same kept rows, on the same device.
    """
    torch.manual_seed(0)
    start, errors = time.perf_counter(), dict.fromkeys(["value", "query", "key", *["sink"] * sink], 0.0)
    for length, window, key_heads, some in samples:
        geometry = Geometry(size**-0.5, window, softcap)
        student = random_call((length,), key_heads=key_heads, size=size, geometry=geometry, sink=sink, dtype=dtype)
        before = moved(student)
        here, teacher = to(student, device), to(before, device)
        heads, every, span = torch.tensor([0, 2, 3]), torch.arange(length), (0, length)
        asked = every[::3] if some else every
        exact = QueryKeyRows.of_call(teacher, 0, span, heads, asked)
        kept = decode(encode(exact, form), form, exact.positions, geometry, size)
        target = SampleTeacher(0, span, heads, exact.positions if some else None, kept)
        found = divergence_triton.attention_divergence(here, [target]).sum()
        if form == "exact" and samples != LONG:
            rows = [log_rows(call, 0, span, heads, asked) for call in (before, student)]
            expected = by_definition.mean_divergence(*rows)
        else:
            expected = divergence.attention_divergence(here, [target]).sum()
        inputs = [part for part in (student.query, student.key, student.sink) if part is not None]
        numbers = [(one.detach(), *torch.autograd.grad(one, inputs)) for one in (found, expected)]
        for part, one, other in zip(errors, *numbers, strict=True):
            error = by_definition.relative_error(one.cpu(), other.cpu(), FLOOR.get(part, 1e-6))
            errors[part] = max(errors[part], error if math.isfinite(error) else math.inf)
    within = dict.fromkeys(errors, GRADIENT_TOLERANCE[dtype]) | {"value": VALUE_TOLERANCE}
    passed = all(error <= within[part] for part, error in errors.items())
    known = {part: error if math.isfinite(error) else None for part, error in errors.items()}
    return [{"passed": passed, "errors": known, "within": within, "seconds": time.perf_counter() - start}]
