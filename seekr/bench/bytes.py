"""What one replay sample takes on disk, next to the released code's form, and what the saving costs in accuracy."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

LENGTH, VOCABULARY, HEAD_SIZE = 1024, 32000, 128
LAYERS, CHOSEN_HEADS = 24, 128
ANSWER_TOKENS = 512
SCORE_SPREAD = 2.0  # standard deviation of the scores: rows that are neither flat nor one-hot
DRIFT = 0.1  # how far the student's queries and keys have moved, in their own standard deviations


def bytes_rows() -> list[dict[str, Any]]:
    """The "bytes" rows: one sample of a Llama-2-7B shape, random queries and keys, each form at all and 100 queries.

    loss_error is relative to the exact loss, gradient_cosine that of the gradient to the student's queries and keys
    against the exact one, both over all chosen heads.
    """
    return [row for queries in (None, 100) for row in _rows(queries)]


def _rows(queries: int | None) -> list[dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    heads = {layer: torch.arange(_heads_of(layer)) for layer in range(LAYERS)}
    positions = None if queries is None else torch.randperm(LENGTH)[:queries].sort().values
    calls = {layer: _call(len(chosen)) for layer, chosen in heads.items()}
    students = {layer: _moved(call) for layer, call in calls.items()}
    teachers = {layer: _teacher(calls[layer], chosen, positions) for layer, chosen in heads.items()}
    exact = [_gradient(students[layer], heads[layer], positions, teachers[layer]) for layer in heads]
    rows = []
    for form in ("exact", "query_key", "rows", "top"):
        with tempfile.TemporaryDirectory(prefix="seekr-bench-") as folder:
            memory = _remember(Path(folder), form, heads, teachers, positions)
            found = [
                _gradient(
                    students[layer], heads[layer], positions, memory.attention(0).rows(layer, heads[layer].device)
                )
                for layer in heads
            ]
            kept = sum(path.stat().st_size for path in Path(folder).iterdir())
        losses = [float(torch.stack([loss for loss, _ in some]).mean()) for some in (exact, found)]
        rows.append(
            {
                "what": "bytes",
                "form": form,
                "queries": queries,
                "bytes": kept,
                "released_bytes": 2 * CHOSEN_HEADS * (queries or LENGTH) * LENGTH + 2 * LENGTH * VOCABULARY,
                "loss_error": abs(losses[1] - losses[0]) / losses[0],
                "gradient_cosine": _dot(exact, found) / math.sqrt(_dot(exact, exact) * _dot(found, found)),
            }
        )
    return rows


def _remember(folder: Path, form: Any, heads: dict[int, Any], teachers: dict[int, Any], positions: Any) -> Any:
    """A memory of the one sample, with the logits that a run keeps by default."""
    import torch

    from seekr.memory.reader import KeptSample, Memory
    from seekr.memory.writer import MemoryWriter
    from seekr.methods import Seekr
    from seekr.modeling.losses import TopLogits

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


def _dot(left: list[Any], right: list[Any]) -> float:
    return sum(float((a.double() * b.double()).sum()) for (_, a), (_, b) in zip(left, right, strict=True))


def _heads_of(layer: int) -> int:
    """128 heads over 24 layers, as evenly as it goes."""
    return CHOSEN_HEADS * (layer + 1) // LAYERS - CHOSEN_HEADS * layer // LAYERS


def _call(heads: int) -> Any:
    import torch

    from seekr.attention.tap import AttentionCall, Geometry

    query, key = (torch.randn(1, heads, LENGTH, HEAD_SIZE) * math.sqrt(SCORE_SPREAD) for _ in range(2))
    key = key.to(torch.bfloat16)
    query = query.to(torch.bfloat16)
    return AttentionCall(query, key, key, key, Geometry(HEAD_SIZE**-0.5), None, None)


def _moved(call: Any) -> Any:
    from dataclasses import replace

    import torch

    query, key = (
        (tensor + DRIFT * math.sqrt(SCORE_SPREAD) * torch.randn_like(tensor)).float()
        for tensor in (call.query, call.key)
    )
    return replace(call, query=query, key=key)


def _teacher(call: Any, heads: Any, positions: Any) -> Any:
    from seekr.attention.rows import QueryKeyRows

    return QueryKeyRows.of_call(call, 0, (0, LENGTH), heads, positions)


def _gradient(student: Any, heads: Any, positions: Any, rows: Any) -> tuple[Any, Any]:
    """Loss, and its gradient to the student's queries and keys as one vector."""
    import torch

    from seekr.attention.divergence import SampleTeacher, attention_divergence

    student.query.requires_grad_()
    student.key.requires_grad_()
    loss = attention_divergence(student, [SampleTeacher(0, (0, LENGTH), heads, positions, rows)])[0]
    gradients = torch.autograd.grad(loss, (student.query, student.key))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])
