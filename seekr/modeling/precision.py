"""What is measured, kept and compared is computed in float32, whatever precision the model's forwards run in.

A method is asked to remember a task under the autocast that training runs under, as its forwards belong there. Nothing
else does: autocast would round products of float32 tensors to 16 bits, and refuses to join 16 bits of two kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switches autocast off inside the block (or the function that it decorates), on every device that has it on."""
    with ExitStack() as stack:
        for device in _devices():
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """`no_autocast`, and TF32 and bfloat16 products of float32 tensors (on a CPU) are off as well: their few bits of
    mantissa would be the noise floor of every measure."""
    # Not by `allow_tf32`, which raises where the user has set the precision by this newer name.
    before = [backend.fp32_precision for backend in _matmuls()]
    for backend in _matmuls():
        backend.fp32_precision = "ieee"
    try:
        with no_autocast():
            yield
    finally:
        for backend, precision in zip(_matmuls(), before, strict=True):
            backend.fp32_precision = precision


@cache
def _devices() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def _matmuls() -> tuple[Any, Any]:
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
