"""Ragged toy tasks, stages and replay batches, shared by the tests of memory and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seekr.data.answers import AnswerKey
from seekr.data.token_rows import answer_tokens
from seekr.memory.reader import KeptSample
from seekr.methods import Method, Objective, TaskContext
from seekr.modeling.batches import MicroBatch, Row, Signals
from seekr.modeling.losses import TopLogits


def toy_samples(count: int, *, seed: int = 0, shortest: int = 4, longest: int = 17) -> list[KeptSample]:
    """Tokenized rows of odd lengths; the second half of each is its answer."""
    draw = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        length = int(draw.integers(shortest, longest + 1))
        ids = draw.integers(3, 96, length).astype(np.int32)
        labels = np.where(np.arange(length) < length // 2, -100, ids).astype(np.int32)
        samples.append(KeptSample(ids, labels))
    return samples


@contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def context(folder: Path, model: nn.Module, samples: Sequence[KeptSample], **changes: object) -> TaskContext:
    settings: dict[str, object] = {
        "task": "toy", "index": 0, "learn": True, "seed": 0, "model": model, "before": None,
        "tokenizer_fingerprint": "tokenizer", "model_fingerprint": "model", "tokenizer": None, "pad_token_id": 0,
        "samples": samples, "prompts": [], "key_of": lambda place: AnswerKey([""]), "metric": "accuracy",
        "max_new_tokens": 8, "max_length": 64, "micro_batch_rows": 4, "device": torch.device("cpu"), "stages": [],
        "working": folder / "working", "folder": folder, "encrypt": False, "track": no_progress,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return TaskContext(**settings | changes)  # type: ignore[arg-type]


def learn_stages(
    method: Method, folder: Path, stages: Sequence[tuple[nn.Module | None, nn.Module, Sequence[KeptSample]]]
) -> Any:
    """Keeps what is kept of each (model before, model after, samples), one stage after another: the next objective."""
    done: list[Path] = []
    for index, (before, after, samples) in enumerate(stages):
        stage = folder / f"{index:02d}"
        method.remember(
            context(
                stage, after, samples, index=index, stages=list(done), learn=before is not None,
                before=None if before is None else (lambda before=before: before),
            )
        )  # fmt: skip
        done.append(stage)
    return method.start(context(folder / "next", stages[-1][1], [], stages=list(done), index=len(done)))


def task_batch(
    samples: Sequence[KeptSample],
    places: Sequence[int] | None = None,
    fillers: int = 0,
    signals: Signals | None = None,
) -> MicroBatch:
    """The rows at `places` (all) of a step of all `samples`; the last `fillers` of them weigh nothing."""
    places = range(len(samples)) if places is None else places
    return MicroBatch.of(
        "task",
        [samples[place] for place in places],
        0,
        rows=[(-1, place) for place in places],
        step_rows=[(-1, place) for place in range(len(samples))],
        step_tokens=sum(map(answer_tokens, samples)),
        fillers=fillers,
        signals=signals,
    )


def as_kept(logits: TopLogits) -> dict[str, Tensor]:
    """As a memory names them."""
    return {"logit_ids": logits.ids, "logit_log_probs": logits.log_probs}


def replay_batch(objective: Objective, rows: Sequence[Row], step_rows: Sequence[Row], fillers: int = 0) -> MicroBatch:
    """One micro-batch of kept `rows` out of a step of `step_rows`; the last `fillers` of them weigh nothing."""
    return MicroBatch.of(
        "replay",
        [objective.memories[memory].encoded(sample) for memory, sample in rows],
        0,
        rows=rows,
        step_rows=step_rows,
        step_tokens=sum(answer_tokens(objective.memories[memory].encoded(sample)) for memory, sample in step_rows),
        fillers=fillers,
        signals=objective.signals,
    )
