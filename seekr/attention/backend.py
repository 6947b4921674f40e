"""Which code computes the divergence on a device: chosen once, and reported where it is the slow one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from seekr.attention import divergence
from seekr.attention.divergence import SampleTeacher
from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import FORMS, decode, encode
from seekr.attention.tap import AttentionCall, Geometry
from seekr.errors import InputError, said_by

Divergence = Callable[[AttentionCall, Sequence[SampleTeacher]], Tensor]

VARIABLE = "SEEKR_DIVERGENCE"
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def attention_divergence(call: AttentionCall, teachers: Sequence[SampleTeacher]) -> Tensor:
    """`divergence.attention_divergence`, by the code that is chosen for the call's device; see `divergence_on`."""
    return divergence_on(call.query.device, call.query.dtype, call.query.shape[-1])(call, teachers)


@cache
def divergence_on(device: torch.device, dtype: torch.dtype, size: int) -> Divergence:
    """The Triton kernels on a CUDA device where they compile and compute what the definition does, else PyTorch.

    The environment variable SEEKR_DIVERGENCE overrides the choice: "triton" or "torch". Where a GPU gets plain PyTorch
    unasked, a warning says why.

    Args:
        device: where queries and keys lie.
        dtype: theirs.
        size: the head dimension.

    Raises:
        InputError: for another value of the variable, or where it asks for kernels that do not run there.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("auto", "torch", "triton"):
        raise InputError(f"{VARIABLE}={asked} is not known; set it to triton or torch, or leave it out")
    if asked == "torch" or (asked == "auto" and device.type == "cpu"):
        return divergence.attention_divergence
    try:
        return _kernels(device, dtype, size)
    except Exception as error:  # whatever a compiler or driver may raise
        why = f"{type(error).__name__}: {said_by(error)}"
    if asked == "triton":
        raise InputError(f"{VARIABLE}=triton: the kernels do not run on {device} ({why}); set it to torch")
    warnings.warn(
        f"attention distillation runs as plain PyTorch on {device}, which is slower: the Triton kernels cannot be used "
        f"({why}); {VARIABLE}=torch makes this choice without a word",
        stacklevel=3,
    )
    return divergence.attention_divergence


def _kernels(device: torch.device, dtype: torch.dtype, size: int) -> Divergence:
    """The kernels, tried on two small heads and every form of a teacher first. Raises whatever goes wrong."""
    from seekr.attention import divergence_triton

    generator = torch.Generator().manual_seed(0)
    shape = (1, 2, 70, size)
    student, teacher = (torch.randn((2, *shape), generator=generator).to(device, dtype) for _ in range(2))
    calls = [
        AttentionCall(query, key, key, query, Geometry(size**-0.5), None, None) for query, key in (student, teacher)
    ]
    calls[0].query.requires_grad_()
    calls[0].key.requires_grad_()
    heads = torch.arange(2)
    exact = QueryKeyRows.of_call(calls[1], 0, (0, 70), heads)
    for form in FORMS:  # a kernel of its own for each
        kept = decode(encode(exact, form), form, exact.positions, exact.geometry, size)
        target = SampleTeacher(0, (0, 70), heads, None, kept)
        found = []
        with torch.enable_grad():
            for one in (divergence.attention_divergence, divergence_triton.attention_divergence):
                value = one(calls[0], [target])
                found.append([value.detach(), *torch.autograd.grad(value.sum(), [calls[0].query, calls[0].key])])
        for expected, one in zip(*found, strict=True):
            error = (one.float() - expected.float()).norm() / expected.float().norm()
            if not error <= _TOLERANCE[dtype]:
                raise ArithmeticError(f"{form}: they are off by {float(error):.1e} of the definition")
    return divergence_triton.attention_divergence
