"""What a run takes on disk besides what is kept of its tasks: its stages, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from seekr.config.schema import Config
from seekr.methods import Method
from seekr.planning.rows import StageSteps


@dataclass(frozen=True)
class Disk:
    """Bytes of the weights of all stages that are kept, of one, and of what is there while a task is learned.

    `most_checkpoints`: how many there are at most at a time, `checkpoints`: their bytes.
    """

    stages: int
    one_stage: int
    kept_stages: int
    checkpoints: int
    most_checkpoints: int


def disk(
    config: Config, method: Method, arguments: TrainingArguments, stages: Sequence[StageSteps], *, stored: int,
    trained: int, optimizer: int | None = None,
) -> Disk:  # fmt: skip
    """Disk of a run whose stages hold `stored` parameters, of which `trained` are trained.

    A checkpoint holds the weights and the optimizer's state (`optimizer` bytes; None: AdamW's two numbers with each
    trained weight). Every `save_steps` steps one is written, and one after the last; one more of them is there than
    `save_total_limit` while the next is written, and all are where that is null.
    """
    learned = [stage for stage in stages if stage.rows.learn]
    item, keep = getattr(torch, config.dtype).itemsize, config.keep_stages
    kept = len(learned) if keep == "all" else min(len(learned), 1 if keep == "last" else int(keep))
    one = stored * item + method.bytes_a_weight * trained
    state = 2 * trained * item if optimizer is None else optimizer
    count = max(
        (math.ceil((stage.task_steps + stage.replay_steps) / arguments.save_steps) for stage in learned), default=0
    )
    if arguments.save_total_limit is not None:
        count = min(count, arguments.save_total_limit + 1)
    return Disk(kept * one, one, kept, count * (stored * item + state), count)
