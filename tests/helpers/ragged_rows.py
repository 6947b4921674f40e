"""Rows of very different lengths, and a micro-batch of them that is packed."""

from __future__ import annotations

from dataclasses import replace

from toy_tasks import toy_samples

from seekr.memory.reader import KeptSample
from seekr.modeling.batches import Layout, MicroBatch
from seekr.modeling.flat_tensors import FlatTensors
from seekr.modeling.packing import plan_layout

LENGTHS = (23, 5, 1, 9, 9, 2, 17)


def samples() -> list[KeptSample]:
    """Rows of odd lengths; one has a single answer token, one is a single token that nothing predicts."""
    rows = toy_samples(len(LENGTHS), shortest=30, longest=30)
    cut = [KeptSample(row.input_ids[:n], row.labels[-n:].copy()) for row, n in zip(rows, LENGTHS, strict=True)]
    cut[3].labels[:-1] = -100
    return cut


def with_layout(batch: MicroBatch, attention: str = "sdpa", hidden_size: int = 10**6) -> MicroBatch:
    lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
    layout = plan_layout(lengths, hidden_size, attention=attention)
    assert layout is not None
    return packed_in(batch, layout)


def packed_in(batch: MicroBatch, layout: Layout) -> MicroBatch:
    """A micro-batch on the CPU as it is where it is made with this layout."""
    tensors = dict(batch.tensors) | layout.tensors(batch.tensors)
    return replace(batch, tensors=FlatTensors.of(tensors), layout=layout)
