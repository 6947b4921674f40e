"""`seekr env`: what a report of a fault has to say of versions and devices; no host name, no path, no secret."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from seekr import __version__
from seekr.cli.output import give
from seekr.errors import show_text

_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "huggingface-hub"),
    *("numpy", "pydantic", "triton", "flash-attn", "kernels", "liger-kernel", "vllm", "deepspeed"),
)
_VARIABLES = (
    *("SEEKR_DIVERGENCE", "SEEKR_PROGRESS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET"),
    *("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "HF_HUB_OFFLINE", "PYTORCH_CUDA_ALLOC_CONF"),
)
"""What may change how a run goes, and can hold no secret; no variable with a path in it."""


def show_environment(arguments: argparse.Namespace) -> None:
    """Prints each fact as soon as it is known: PyTorch, which knows the devices, takes seconds to import."""

    def show() -> None:
        for name, value in facts():
            show_text(f"{name}: {value}")

    give(arguments.json, lambda: dict(facts()), show)


def facts() -> Iterator[tuple[str, str]]:
    """Name and value of each fact, the quick ones first."""
    yield "seekr", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", platform.platform()
    for name in _PACKAGES:
        yield name, _version(name)
    for name in _VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]
    try:
        import torch
    except Exception as error:  # the very thing to report: a library that does not load, of another CUDA or compiler
        yield "devices", f"unknown, since torch cannot be imported ({type(error).__name__})"
        return
    yield "devices", "; ".join(_devices(torch))
    yield "attention", ", ".join(_attention(torch))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices(torch: ModuleType) -> Iterator[str]:
    yield f"CPU with {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        yield f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        for place in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(place)
            size = f"{found.total_memory / 2**30:.0f} GiB"
            yield f"cuda:{place} {found.name}, {size}, compute capability {found.major}.{found.minor}"
    else:
        yield f"no CUDA device that torch can use, which was built for {torch.version.cuda or 'CPUs alone'}"
    if torch.backends.mps.is_available():
        yield "MPS"


def _attention(torch: ModuleType) -> Iterator[str]:
    """What transformers may be asked to compute attention by."""
    yield from ("eager", "sdpa", "flex_attention")
    if torch.cuda.is_available():
        if torch.backends.cuda.is_flash_attention_available():
            yield "sdpa's own flash kernels"
        if _version("flash-attn") != "not installed":
            yield "flash_attention_2"
