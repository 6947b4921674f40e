"""SuperNI order 1, shortened to four tasks, on a tiny real model: every method from recipe to scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seekr.cli.main import main
from seekr.methods import METHODS
from seekr.runs.run import Run

TASKS = ["task1572", "task363", "task1290", "task181"]  # the first four of the order


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "general_replay"])  # the order has no skill
def test_four_tasks_of_superni(method: str, shared: Path, tmp_path: Path) -> None:
    words = [
        f"method.name={method}",
        f"model={shared / 'models' / 'tinystories-656k'}",
        f"tasks.data={shared / 'data' / 'superni'}",
        f"tasks.only=[{','.join(TASKS)}]",
        "tasks.train_limit=32",
        "tasks.test_limit=8",
        "tasks.max_new_tokens=16",
        "tasks.num_train_epochs=1",
        "training.num_train_epochs=1",
        "training.per_device_train_batch_size=4",
        "training.gradient_accumulation_steps=2",
        "training.learning_rate=1e-3",
        "max_length=256",
        "cells=seen",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert main(["learn", "--recipe", "superni-order-1", *words]) == 0
    run = Run(tmp_path / "run")
    scores = run.scores
    assert scores.tasks == TASKS
    assert scores.metrics == ["superni_rouge_l", "superni_accuracy", "superni_rouge_l", "superni_rouge_l"]
    wanted = [(3, j) for j in range(4)] if method == "joint" else [(i, j) for i in range(4) for j in range(i + 1)]
    for i, j in wanted:
        score = scores.matrix[i][j]
        assert score is not None
        assert 0 <= score <= 100
        rows = [json.loads(line) for line in (run.folder / "predictions" / f"{i}-{j}.jsonl").open(encoding="utf-8")]
        assert len(rows) == 8
    assert scores.overall_performance == pytest.approx(sum(scores.matrix[-1]) / 4)
    if method == "progressive_prompts":
        assert scores.backward_transfer == 0
    steps = [json.loads(line)["kind"] for stage in run.stages for line in (stage.folder / "log.jsonl").open()]
    assert ("replay" in steps) == METHODS[method].replays
    # The same command again finds nothing left to do.
    before = {path: path.stat().st_mtime_ns for path in run.folder.glob("stages/**/*")}
    assert main(["learn", "--recipe", "superni-order-1", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.folder.glob("stages/**/*")} == before
