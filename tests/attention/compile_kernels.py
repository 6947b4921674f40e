"""Compiles the divergence's kernels for the GPUs of the command line, e.g. `80 90`; no GPU is needed for that.

Prints a line of JSON for each: compute capability, kernel, case, bytes of shared memory, and whether it multiplies on
tensor cores and adds by atomics.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seekr.attention.divergence_triton import _block_sizes
from seekr.attention.kernels import divergence_by_queries, gradient_by_keys

INTEGERS = {"heads", "queries", "length", "entries", "window"}
FLOATS = {"scaling", "softcap", "scale"}
PLACES = {"positions", "key_of_head", "starts", "first_head", "first_row", "end_row"}
SINGLE = {"teacher_sink", "of_rows", "sink", "values", "query_grad", "key_grad"}

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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


CASES = (
    {"dtype": "bf16"},
    {"dtype": "bf16", "coded": True},
    {"dtype": "fp16"},
    {"dtype": "fp32"},
    {"dtype": "fp32", "coded": True},
    {"dtype": "bf16", "size": 256},
    {"dtype": "fp32", "size": 256},
    {"dtype": "bf16", "size": 80, "softcap": True},
    {"dtype": "fp32", "size": 256, "coded": True, "softcap": True},
)
"""What runs of models ask for: dtype of queries and keys, size of a head, soft cap, stored rows as teacher."""


def compile_for(
    capability: int, kernel: Any, dtype: str, size: int = 128, coded: bool = False, softcap: bool = False
) -> dict[str, Any]:
    """One kernel, in the blocks that it is run with."""
    rows, keys, warps, stages = _block_sizes(DTYPES[dtype], size)
    constants = {
        "SIZE": size, "PADDED": triton.next_power_of_2(size), "ROWS": rows, "KEYS": keys, "CODED": coded,
        "SCALED": not coded, "BUCKET": coded, "SOFTCAP": softcap, "SINK": True, "GRADIENT": True,
        "LIFT": 2.0**15 if dtype == "fp16" else 1.0,
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {name: "constexpr" if name in constants else kind(name, dtype, coded) for name in kernel.arg_names}
    target, options = GPUTarget("cuda", capability, 32), {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(ASTSource(kernel, types, constants), target=target, options=options)
    assembly = compiled.asm["ptx"]
    return {
        "capability": capability, "kernel": kernel.__name__, "dtype": dtype, "size": size, "coded": coded,
        "softcap": softcap, "shared": compiled.metadata.shared,
        "tensor_cores": "mma.sync" in assembly or "wgmma" in assembly,
        "atomics": re.search(r"\b(atom|red)\.", assembly) is not None,
    }  # fmt: skip


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for kernel in (divergence_by_queries, gradient_by_keys):
            for case in CASES:
                print(json.dumps(compile_for(capability, kernel, **case)))
