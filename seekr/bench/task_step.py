"""A step on rows of the task itself: as it is taken here, and by padded rows with all of their logits."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from seekr.bench.meters import TURNS, in_turn, timed
from seekr.bench.shapes import Shape
from seekr.data.token_rows import answer_tokens
from seekr.methods import Objective, Sequential
from seekr.modeling.batches import collate
from seekr.modeling.packing import layout_planner
from seekr.training.order import StepPlan, split
from seekr.training.rows import Rows

ROWS, MICRO_BATCH, SHORTEST, LONGEST = 16, 4, 20, 512


def ragged_lengths(draw: np.random.Generator, count: int) -> np.ndarray:
    """Tokens of rows, as data sets have them: log-normal with a median of 100, from SHORTEST to LONGEST."""
    return np.clip(np.exp(draw.normal(np.log(100), 0.8, count)), SHORTEST, LONGEST).astype(int)


def task_step_rows(shape: Shape) -> list[dict[str, Any]]:
    """The "task step" rows: medians of TURNS steps; no optimizer.

    Rows of SHORTEST to LONGEST tokens, most of them few, a quarter of each an answer.
    """
    draw = np.random.default_rng(0)
    lengths = ragged_lengths(draw, ROWS)
    samples = [shape.row(draw, length, length * 3 // 4) for length in lengths]
    model, objective = shape.model(0).train(), Objective(Sequential())
    accumulation = ROWS // MICRO_BATCH

    rows = Rows(samples, [], 0)
    rows.plan_layout = layout_planner(model)
    step = StepPlan(ROWS, (), ROWS, seed=0, task=0).epoch(0)[0]
    here = [
        rows[slots[0]].to(shape.device) for slots in split(step, rows.length, accumulation=accumulation, processes=1)
    ]
    given = [[samples[place] for _, place in step.rows[start::accumulation]] for start in range(accumulation)]
    padded = [{name: tensor.to(shape.device) for name, tensor in collate(some, 0).items()} for some in given]
    answers = sum(map(answer_tokens, samples))

    def step_here() -> None:
        for batch in here:
            objective.task_loss(model, batch)["task"].backward()
        model.zero_grad(set_to_none=True)

    def step_padded() -> None:
        for batch in padded:
            model(**batch, use_cache=False, num_items_in_batch=torch.tensor(answers)).loss.backward()
        model.zero_grad(set_to_none=True)

    ways = {"padded": partial(timed, step_padded, shape.device), "seekr": partial(timed, step_here, shape.device)}
    common = {"what": "task step", "model": shape.name, "device": shape.device, "tokens": int(lengths.sum())}
    found = in_turn(ways, TURNS)
    return [common | {"path": way, "seconds": median(taken), "all_seconds": taken} for way, taken in found.items()]
