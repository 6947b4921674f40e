"""One process and two (gloo, by the command line) make the same run, and each goes on with what the other began."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import launches
import numpy as np
import pytest
import torch

from seekr import Run

TOLERANCE = 1e-4
BY_TWO = "training.per_device_train_batch_size=4"


@pytest.fixture(scope="module")
def one(tiny_model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    folder = tmp_path_factory.mktemp("one")
    config = launches.write(folder / "c.yaml", launches.config_of(tiny_model_folder, data_folder, folder / "run"))
    assert [status for status, _ in launches.learn(config)] == [0]
    return folder / "run"


@pytest.fixture(scope="module")
def two(tiny_model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two, as a user starts it."""
    folder = tmp_path_factory.mktemp("two")
    config = launches.write(folder / "c.yaml", launches.config_of(tiny_model_folder, data_folder, folder / "run"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "seekr"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, "learn", str(config), BY_TWO]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_the_same_trajectory(one: Path, two: Path, tiny_model_folder: Path) -> None:
    found = launches.distances(one, two, tiny_model_folder)
    assert len(found) == 3
    assert max(found) < TOLERANCE


def test_the_same_measures_and_heads(one: Path, two: Path) -> None:
    for first, second in zip(Run(one).stages, Run(two).stages, strict=True):
        for name in ("sensitivity", "change", "importance"):
            torch.testing.assert_close(second.importance[name], first.importance[name], rtol=0.01, atol=0)
        assert second.heads == first.heads


def test_one_memory_of_every_sample_whoever_wrote_it(one: Path, two: Path) -> None:
    for first, second in zip(Run(one).stages, Run(two).stages, strict=True):
        alone, shared = first.memory, second.memory
        assert alone is not None
        assert shared is not None
        assert len(alone) == len(shared) == 7
        assert len(alone.about["shards"]) == 1
        assert [shard["samples"] for shard in shared.about["shards"]] == [[0, 3], [3, 7]]
        assert {path.name for path in shared.folder.iterdir()} == {
            "memory.json", "samples.safetensors", "teacher-00000.safetensors", "teacher-00003.safetensors",
        }  # fmt: skip
        samples = [(memory.folder / "samples.safetensors").read_bytes() for memory in (alone, shared)]
        assert samples[0] == samples[1]
        assert alone.about["forms"] == shared.about["forms"]
        for place in range(7):
            assert np.array_equal(alone.positions(place), shared.positions(place))
            for layer in alone.heads:
                rows = [memory.rows(place, layer, torch.device("cpu")) for memory in (alone, shared)]
                torch.testing.assert_close(rows[1].query, rows[0].query, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(rows[1].key, rows[0].key, rtol=1e-3, atol=1e-4)
            logits = [memory.logits(place) for memory in (alone, shared)]
            torch.testing.assert_close(logits[1].log_probs, logits[0].log_probs, rtol=0, atol=5e-3)
        floors = [memory.summary()["attention_floor"] for memory in (alone, shared)]
        assert floors[1] == pytest.approx(floors[0], abs=1e-6)


def test_the_same_answers_and_scores(one: Path, two: Path) -> None:
    names = sorted(path.name for path in (one / "predictions").iterdir())
    assert names == sorted(path.name for path in (two / "predictions").iterdir())
    for name in names:
        assert (two / "predictions" / name).read_text() == (one / "predictions" / name).read_text()
    assert json.loads((two / "scores.json").read_text()) == json.loads((one / "scores.json").read_text())


def test_a_batch_that_is_cut_in_two_is_the_same_run(one: Path, two: Path) -> None:
    """4 rows on 2 processes or 8 on one: run.json keeps the rows of a step."""
    records = [json.loads((run / "run.json").read_text())["identity"] for run in (one, two)]
    assert records[0] == records[1]
    assert records[0]["step_rows"] == 8
