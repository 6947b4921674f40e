"""What one replay sample takes on disk, next to the released code's form, and what the saving costs in accuracy.

    python benchmarks/sample_bytes.py --json benchmarks/results/sample_bytes.json

A sample of 1024 tokens in the shape of Llama-2-7B, random queries and keys; each form at all queries and at 100.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seekr.attention.divergence import SampleTeacher, attention_divergence
from seekr.attention.heads import spread_heads
from seekr.attention.rows import QueryKeyRows
from seekr.attention.tap import AttentionCall, Geometry
from seekr.bench import describe_machine
from seekr.memory.reader import KeptSample, Memory
from seekr.memory.writer import MemoryWriter
from seekr.methods import Seekr
from seekr.modeling.losses import TopLogits

LENGTH, VOCABULARY, HEAD_SIZE = 1024, 32000, 128
LAYERS, CHOSEN_HEADS = 24, 128
ANSWER_TOKENS = 512
SCORE_SPREAD = 2.0  # standard deviation of the scores: rows that are neither flat nor one-hot
DRIFT = 0.1  # how far the student's queries and keys have moved, in their own standard deviations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [row for queries in (None, 100) for row in measure(queries)]
    arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def measure(queries: int | None) -> list[dict[str, Any]]:
    """A row for each form.

    loss_error is relative to the exact loss, gradient_cosine that of the gradient to the student's queries and keys
    against the exact one, both over all chosen heads.
    """
    torch.manual_seed(0)
    heads = {layer: torch.arange(count) for layer, count in enumerate(spread_heads(CHOSEN_HEADS, LAYERS))}
    positions = None if queries is None else torch.randperm(LENGTH)[:queries].sort().values
    calls = {layer: _call(len(chosen)) for layer, chosen in heads.items()}
    students = {layer: _moved(call) for layer, call in calls.items()}
    teachers = {
        layer: QueryKeyRows.of_call(calls[layer], 0, (0, LENGTH), chosen, positions) for layer, chosen in heads.items()
    }

    def against(rows: Callable[[int], Any]) -> tuple[float, Any]:
        """Mean loss, and its gradient to the student's queries and keys of all layers as one vector."""
        found = [_gradient(students[layer], heads[layer], positions, rows(layer)) for layer in heads]
        return float(torch.stack([loss for loss, _ in found]).mean()), torch.cat([part for _, part in found]).double()

    exact_loss, exact = against(teachers.__getitem__)
    found = []
    for form in ("exact", "query_key", "rows", "top"):
        with tempfile.TemporaryDirectory(prefix="seekr-bench-") as folder:
            memory = _remember(Path(folder), form, heads, teachers, positions)
            loss, gradient = against(partial(memory.attention(0).rows, device=torch.device("cpu")))
            kept = sum(path.stat().st_size for path in Path(folder).iterdir())
        found.append(
            {
                "form": form,
                "queries": queries,
                "bytes": kept,
                "released_bytes": 2 * CHOSEN_HEADS * (queries or LENGTH) * LENGTH + 2 * LENGTH * VOCABULARY,
                "loss_error": abs(loss - exact_loss) / exact_loss,
                "gradient_cosine": float(exact @ gradient / (exact.norm() * gradient.norm())),
            }
        )
    return found


def _remember(folder: Path, form: Any, heads: dict[int, Any], teachers: dict[int, Any], positions: Any) -> Any:
    """A memory of the one sample, with the logits that a run keeps by default."""
    ids = torch.randint(3, VOCABULARY, (LENGTH,), dtype=torch.int32).numpy()
    labels = ids.copy()
    labels[:-ANSWER_TOKENS] = -100
    logits = TopLogits.of_logits(
        torch.randn(ANSWER_TOKENS, VOCABULARY), Seekr().logit_top_k or VOCABULARY, torch.float16
    )
    writer = MemoryWriter(
        folder,
        [KeptSample(ids, labels)],
        task="bench",
        tokenizer_fingerprint="",
        model_fingerprint="",
        heads=heads,
        form=form,
    )
    writer.add(0, attention=teachers, positions=positions, logits=logits)
    writer.close()
    return Memory.open(folder, verify=False)


def _call(heads: int) -> Any:
    drawn = (torch.randn(1, heads, LENGTH, HEAD_SIZE) * math.sqrt(SCORE_SPREAD) for _ in range(2))
    query, key = (tensor.to(torch.bfloat16) for tensor in drawn)
    return AttentionCall(query, key, key, key, Geometry(HEAD_SIZE**-0.5), None, None)


def _moved(call: Any) -> Any:
    query, key = (
        (tensor + DRIFT * math.sqrt(SCORE_SPREAD) * torch.randn_like(tensor)).float()
        for tensor in (call.query, call.key)
    )
    return replace(call, query=query, key=key)


def _gradient(student: Any, heads: Any, positions: Any, rows: Any) -> tuple[Any, Any]:
    """Loss, and its gradient to the student's queries and keys as one vector."""
    student.query.requires_grad_()
    student.key.requires_grad_()
    loss = attention_divergence(student, [SampleTeacher(0, (0, LENGTH), heads, positions, rows)])[0]
    gradients = torch.autograd.grad(loss, (student.query, student.key))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


if __name__ == "__main__":
    main()
