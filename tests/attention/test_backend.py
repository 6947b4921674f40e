"""Which code computes the divergence, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seekr.attention import backend, divergence
from seekr.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    backend.divergence_on.cache_clear()


def broken(*_: object) -> Callable[..., object]:
    raise RuntimeError("no such\n  instruction")


def test_a_cpu_gets_plain_pytorch_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.divergence_on(CPU, torch.float32, 8) is divergence.attention_divergence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [8, 80])
def test_kernels_that_compute_what_the_definition_does_are_taken(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int
) -> None:
    pytest.importorskip("triton")
    from seekr.attention import divergence_triton

    monkeypatch.setenv(backend.VARIABLE, "triton")
    device = GPU if torch.cuda.is_available() else CPU
    assert backend.divergence_on(device, dtype, size) is divergence_triton.attention_divergence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernels_are_tried_outside_the_autocast_that_the_first_task_is_begun_in(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """They were passed over on every GPU in a run with bf16: their teachers could not be made under autocast."""
    pytest.importorskip("triton")
    from seekr.attention import divergence_triton

    monkeypatch.setenv(backend.VARIABLE, "triton")
    device = GPU if torch.cuda.is_available() else CPU
    with torch.autocast(device.type, dtype=dtype):
        assert backend.divergence_on(device, dtype, 8) is divergence_triton.attention_divergence


def test_kernels_that_compute_something_else_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from seekr.attention import divergence_triton

    monkeypatch.setenv(backend.VARIABLE, "triton")
    monkeypatch.setattr(
        divergence_triton, "attention_divergence", lambda *call: 1.1 * divergence.attention_divergence(*call)
    )
    device = GPU if torch.cuda.is_available() else CPU
    with pytest.raises(InputError, match=r"off by 1\.0e-01 of the definition"):
        backend.divergence_on(device, torch.float32, 8)


def test_a_gpu_without_kernels_gets_plain_pytorch_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_kernels", broken)
    with pytest.warns(UserWarning, match=r"slower: .* \(RuntimeError: no such instruction\); SEEKR_DIVERGENCE=torch"):
        assert backend.divergence_on(GPU, torch.bfloat16, 128) is divergence.attention_divergence


def test_kernels_that_are_asked_for_and_do_not_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_kernels", broken)
    monkeypatch.setenv(backend.VARIABLE, "triton")
    with pytest.raises(InputError, match=r"do not run on cuda \(RuntimeError: no such instruction\); set it to torch"):
        backend.divergence_on(GPU, torch.bfloat16, 128)


def test_pytorch_that_is_asked_for_is_taken_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_kernels", broken)
    monkeypatch.setenv(backend.VARIABLE, "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.divergence_on(GPU, torch.bfloat16, 128) is divergence.attention_divergence


def test_an_unknown_choice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cutlass")
    with pytest.raises(InputError, match="SEEKR_DIVERGENCE=cutlass is not known; set it to triton or torch"):
        backend.divergence_on(CPU, torch.float32, 8)


@pytest.mark.thorough
def test_kernels_compile_for_gpus_with_tensor_cores_and_without_atomics() -> None:
    """For what a GPU of compute capability 8.0, 8.9 (a consumer's) and 9.0 can hold; it is not run on one here.

    In float32 heads of 256 took more shared memory than an A100 has, and those of 128 more than a consumer's GPU.
    """
    pytest.importorskip("triton")
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script, "80", "89", "90"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 54
    for one in found:
        # float32 is multiplied in full precision, which tensor cores do not have.
        assert one["tensor_cores"] == (one["dtype"] != "fp32"), one
        assert not one["atomics"], one
        assert one["shared"] <= {80: 166_912, 89: 101_376, 90: 232_448}[one["capability"]], one
