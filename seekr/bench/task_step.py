"""A step on rows of the task itself: as it is taken here, and by padded rows with all of their logits."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from seekr.bench.meters import timed
from seekr.bench.shapes import Shape

if TYPE_CHECKING:
    import numpy as np

ROWS, MICRO_BATCH, SHORTEST, LONGEST = 16, 4, 20, 512
STEPS = 5


def ragged_lengths(draw: np.random.Generator, count: int) -> np.ndarray:
    """Tokens of rows, as data sets have them: log-normal with a median of 100, from SHORTEST to LONGEST."""
    import numpy as np

    return np.clip(np.exp(draw.normal(np.log(100), 0.8, count)), SHORTEST, LONGEST).astype(int)


def task_step_rows(shape: Shape) -> list[dict[str, Any]]:
    """The "task step" rows: medians of STEPS steps in turn, after one that is not counted; no optimizer.

    Rows of SHORTEST to LONGEST tokens, most of them few, a quarter of each an answer.
    """
    import numpy as np
    import torch

    from seekr.data.token_rows import answer_tokens
    from seekr.memory.reader import KeptSample
    from seekr.methods import Objective, Sequential
    from seekr.modeling.batches import MicroBatch, collate
    from seekr.modeling.packing import layout_planner
    from seekr.training.order import StepPlan, split
    from seekr.training.rows import Rows

    draw = np.random.default_rng(0)
    lengths = ragged_lengths(draw, ROWS)
    samples = []
    for length in lengths:
        ids = draw.integers(3, shape.vocabulary, length).astype(np.int32)
        samples.append(KeptSample(ids, np.where(np.arange(length) < length * 3 // 4, -100, ids).astype(np.int32)))
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

    def step_here(batches: list[MicroBatch]) -> None:
        for batch in batches:
            objective.task_loss(model, batch)["task"].backward()
        model.zero_grad(set_to_none=True)

    def step_padded() -> None:
        for batch in padded:
            model(**batch, use_cache=False, num_items_in_batch=torch.tensor(answers)).loss.backward()
        model.zero_grad(set_to_none=True)

    ways = {"padded": step_padded, "seekr": lambda: step_here(here)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(1 + STEPS):
        for way, work in ways.items():
            taken = timed(work, shape.device)
            seconds[way] += [taken] * bool(turn)
    common = {"what": "task step", "model": shape.name, "device": shape.device, "tokens": int(lengths.sum())}
    return [common | {"path": way, "seconds": median(found)} for way, found in seconds.items()]
