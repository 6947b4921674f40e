"""Compiles the divergence's kernels for the GPUs of the command line, e.g. `80 90`; no GPU is needed for that.

Prints a line of JSON for each: compute capability, kernel, dtype, whether the teacher is stored rows, bytes of shared
memory, and whether it multiplies on tensor cores.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seekr.attention.kernels import divergence_by_queries, gradient_by_keys

INTEGERS = {"heads", "queries", "length", "entries", "window"}
FLOATS = {"scaling", "softcap", "scale"}
PLACES = {"positions", "key_of_head", "starts", "first_head", "first_row", "end_row"}
SINGLE = {"teacher_sink", "of_rows", "sink", "values", "query_grad", "key_grad"}


def kind(name: str, dtype: str, coded: bool) -> str:
    """Triton's name of an argument's type."""
    if name in INTEGERS:
        return "i32"
    if name in FLOATS:
        return "fp32"
    if name in PLACES:
        return "*i64"
    if name in SINGLE or name == "row_scale":
        return "*fp32"
    if name in ("rest", "key_scale"):
        return "*fp16"
    return "*u8" if coded and name.startswith("teacher") else f"*{dtype}"


def compile_for(capability: int, kernel: Any, dtype: str, coded: bool) -> dict[str, Any]:
    """One kernel as a run of a model with heads of 128 asks for it."""
    rows = 32 if dtype == "fp32" else 64
    constants = {
        "SIZE": 128, "PADDED": 128, "ROWS": rows, "KEYS": rows, "CODED": coded, "SCALED": not coded, "BUCKET": coded,
        "SOFTCAP": False, "SINK": True, "GRADIENT": True, "LIFT": 1.0,
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {name: "constexpr" if name in constants else kind(name, dtype, coded) for name in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, types, constants), target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}
    )
    assembly = compiled.asm["ptx"]
    return {
        "capability": capability, "kernel": kernel.__name__, "dtype": dtype, "coded": coded,
        "shared": compiled.metadata.shared, "tensor_cores": "mma.sync" in assembly or "wgmma" in assembly,
        "atomics": re.search(r"\b(atom|red)\.", assembly) is not None,
    }  # fmt: skip


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for kernel in (divergence_by_queries, gradient_by_keys):
            for dtype, coded in (("bf16", False), ("bf16", True)):
                print(json.dumps(compile_for(capability, kernel, dtype, coded)))
