"""What a sample's attention teacher takes and costs in each form, for three model shapes at 1k, 4k and 32k tokens.

    python benchmarks/teacher_bytes.py --json benchmarks/results/teacher_bytes.json

128 heads over 24 layers, 100 queries of each; random queries and keys in bfloat16 whose scores have standard deviation
2, the student's moved by a tenth. Six heads of one layer are measured (of a grouped model, as they fall on key heads
if drawn at random); bytes and times are those of the sample, 128 / 6 as much. Loading is reading the file and making
rows of it, the median of five; the file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load, save_file

from seekr.attention.divergence import SampleTeacher, attention_divergence
from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import automatic_form, decode, encode
from seekr.attention.tap import AttentionCall, Geometry
from seekr.bench import describe_machine

SHAPES = {"Llama-2-7B": (32, 32, 128), "Llama-3-8B": (32, 8, 128), "Qwen3-4B": (32, 8, 128)}
LAYERS_OF = {"Llama-2-7B": 32, "Llama-3-8B": 32, "Qwen3-4B": 36}
LENGTHS = (1024, 4096, 32768)
FORMS = ("exact", "query_key", "rows", "top")
HEADS, QUERIES, MEASURED = 128, 100, 6
SPREAD, DRIFT = 2.0, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [row for shape in SHAPES for length in LENGTHS for row in measure(shape, length)]
    arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def measure(shape: str, length: int) -> list[dict[str, Any]]:
    """A row for each form."""
    torch.manual_seed(0)
    heads, key_heads, size = SHAPES[shape]
    chosen = torch.randperm(heads)[:MEASURED].sort().values
    positions = torch.randperm(length)[:QUERIES].sort().values
    drawn = [torch.randn(1, count, length, size) * math.sqrt(SPREAD) for count in (heads, key_heads)]
    query, key = (tensor.to(torch.bfloat16) for tensor in drawn)
    call = AttentionCall(query, key, key, query, Geometry(size**-0.5), None, None)
    moved = [(one + DRIFT * math.sqrt(SPREAD) * torch.randn_like(one)).float().requires_grad_() for one in (query, key)]
    student = replace(call, query=moved[0], key=moved[1])
    teacher = QueryKeyRows.of_call(call, 0, (0, length), chosen, positions)

    def loss_and_gradient(rows: Any) -> tuple[float, torch.Tensor]:
        loss = attention_divergence(student, [SampleTeacher(0, (0, length), chosen, positions, rows)])[0]
        return float(loss.detach()), torch.cat([part.flatten() for part in torch.autograd.grad(loss, moved)]).double()

    exact_loss, exact = loss_and_gradient(teacher)
    automatic = automatic_form(teacher)
    found = []
    for form in FORMS:
        with tempfile.TemporaryDirectory(prefix="seekr-bench-") as folder:
            file = Path(folder) / "layer.safetensors"
            save_file(encode(teacher, form), file)  # type: ignore[arg-type]
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                rows = decode(load(file.read_bytes()), form, positions, call.geometry, size)  # type: ignore[arg-type]
                seconds.append(time.perf_counter() - start)
            loss, gradient = loss_and_gradient(rows)
            cosine = float(gradient @ exact / (gradient.norm() * exact.norm()))
            scale = HEADS / MEASURED
            found.append(
                {
                    "model": shape, "tokens": length, "form": form, "automatic": form == automatic,
                    "bytes": file.stat().st_size * scale, "load_seconds": median(seconds) * scale,
                    "loss_error": abs(loss - exact_loss) / exact_loss, "gradient_cosine": cosine,
                    # bfloat16 maps of these heads and queries, and of every head and query, as the released code has.
                    "released_bytes": 2 * HEADS * QUERIES * length,
                    "released_bytes_in_all": 2 * LAYERS_OF[shape] * heads * length * length,
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


if __name__ == "__main__":
    main()
