"""One process and two (gloo, by the command line) make the same run, and each goes on with what the other began."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import launches
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from preloaded import ended

from seekr import Run
from seekr.config.identity import as_kept_now

pytestmark = pytest.mark.thorough

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
            assert np.array_equal(alone.attention(place).positions, shared.attention(place).positions)
            for layer in alone.heads:
                rows = [memory.attention(place).rows(layer, torch.device("cpu")) for memory in (alone, shared)]
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
    assert Run(two).scores == Run(one).scores


def test_a_batch_that_is_cut_in_two_is_the_same_run(one: Path, two: Path) -> None:
    """4 rows on 2 processes or 8 on one: run.json keeps the rows of a step."""
    records = [json.loads((run / "run.json").read_text())["identity"] for run in (one, two)]
    assert records[0] == records[1]
    assert records[0]["step_rows"] == 8


@pytest.mark.slow
def test_a_run_is_evaluated_by_any_number_of_processes(one: Path, two: Path, tmp_path: Path) -> None:
    for name, source, count in (("one", two, 1), ("two", one, 2)):  # by another number than learned it
        shutil.copytree(source, tmp_path / name)
        found = launches.learn(*[tmp_path / name] * count, command="evaluate", words=["--cells", "all"])
        assert [status for status, _ in found] == [0] * count, found
    folders = [tmp_path / name / "predictions" for name in ("one", "two")]
    answers = [{path.name: path.read_text() for path in folder.iterdir()} for folder in folders]
    assert answers[0] == answers[1] != {}
    scores = [Run(tmp_path / name).scores for name in ("one", "two")]
    assert scores[0] == scores[1]
    assert None not in scores[0].base


def test_another_number_of_rows_is_another_run(one: Path, tmp_path: Path) -> None:
    config = json.loads((one / "run.json").read_text())["config"]
    config["training"]["gradient_accumulation_steps"] = 2
    path = launches.write(tmp_path / "c.yaml", config)
    status, told = launches.learn(path)[0]
    assert status == 2
    assert "per_device_train_batch_size × gradient_accumulation_steps × processes is 8 there and 16 here" in told


def test_runs_of_before_named_the_factors() -> None:
    method = {"name": "sequential"}
    training = {"per_device_train_batch_size": 4, "weight_decay": 1}
    settings = {"seed": 0, "method": method, "training": training, "processes": 2}
    kept = {"seed": 0, "method": method, "training": {"weight_decay": 1}, "step_rows": 8}
    assert as_kept_now(settings) == as_kept_now(kept) == kept
    assert as_kept_now({"method": method, "training": {"gradient_accumulation_steps": 3}})["step_rows"] == 24


@pytest.mark.slow
def test_finished_stages_are_gone_on_from_by_another_number(
    one: Path, tiny_model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """Task a on two processes, b on one, c on two: the same command, tasks added at its end."""
    for tasks, count in (("a", 2), ("ab", 1), ("abc", 2)):
        config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run", tasks)
        config["training"] = {**launches.TRAINING, "per_device_train_batch_size": 4}  # 8 rows a step, from then on
        path = launches.write(tmp_path / "c.yaml", config)
        found = launches.learn(*[path] * count)
        assert [status for status, _ in found] == [0] * count, found
    assert max(launches.distances(one, tmp_path / "run", tiny_model_folder)) < TOLERANCE


TWO_RESUME = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"),
    reason="it does not read the optimizer of several CPU processes",
)


@pytest.mark.parametrize(("first", "then"), [(2, 1), pytest.param(1, 2, marks=[pytest.mark.slow, TWO_RESUME])])
def test_a_task_that_was_stopped_goes_on_with_another_number(
    first: int, then: int, one: Path, tiny_model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run")
    rows = {"per_device_train_batch_size": 8 // first}
    path = launches.write(tmp_path / "c.yaml", {**config, "training": {**launches.TRAINING, **rows}})
    processes = launches.start(*[path] * first)
    log = tmp_path / "run/working/01-b/log.jsonl"
    while not log.is_file() or not log.read_text().count("\n"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[-1].send_signal(signal.SIGTERM)  # one of them hears of it
    assert [status for status, _ in ended(processes)] == [130] * first
    stopped = Run(tmp_path / "run").status()[1]
    assert stopped.state == "stopped"
    found = launches.learn(*[path] * then)
    assert [status for status, _ in found] == [0] * then, found
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/stages/01-b/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert max(launches.distances(one, tmp_path / "run", tiny_model_folder)) < TOLERANCE


def test_processes_that_disagree_give_up_together(tiny_model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run")
    first = launches.write(tmp_path / "first.yaml", config)
    other = {**config, "training": {**launches.TRAINING, "learning_rate": 2e-3}}
    found = launches.learn(first, launches.write(tmp_path / "other.yaml", other))
    assert [status for status, _ in found] == [2, 2]
    told = "the processes of this launch disagree: training.learning_rate is 0.001 in process 0 and 0.002 in process 1"
    assert told in found[0][1]
    assert found[0][1].count("\n") == 1
    assert found[1][1] == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_rows_that_differ_are_a_disagreement(tiny_model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    """As where machines hold different versions of a file: the configurations are the same."""
    config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run", "a")
    folders = []
    for name, kept in (("first", 14), ("other", 13)):
        (tmp_path / name / "a").mkdir(parents=True)
        rows = json.loads((data_folder / "a/train.json").read_text())
        (tmp_path / name / "a/train.json").write_text(json.dumps(rows[:kept]))
        folders.append(launches.write(tmp_path / name / "c.yaml", {**config, "tasks": [
            {"name": "a", "train": "/proc/self/cwd/a/train.json"}
        ]}))  # fmt: skip
    found = launches.learn(*folders, folders=[tmp_path / "first", tmp_path / "other"])
    assert [status for status, _ in found] == [2, 2]
    assert "disagree: tasks.a.tasks.a.rows is 14 in process 0 and 13 in process 1" in found[0][1]
    assert not (tmp_path / "run").exists()


def test_what_one_process_alone_finds_wrong_ends_all(
    tiny_model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    config = launches.write(tmp_path / "c.yaml", launches.config_of(tiny_model_folder, data_folder, tmp_path / "run"))
    found = launches.learn(config, tmp_path / "missing.yaml")
    assert [status for status, _ in found] == [2, 2], found
    assert found[0][1].startswith("seekr: error: process 1 of 2: ")
    assert "missing.yaml: no such configuration file" in found[0][1]
    assert found[0][1].count("\n") == 1
    assert found[1][1] == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a device is there")
def test_a_device_that_is_missing_is_told_by_one(tiny_model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    config = launches.write(tmp_path / "c.yaml", launches.config_of(tiny_model_folder, data_folder, tmp_path / "run"))
    for environment, told in (
        ({"ACCELERATE_USE_CPU": "false"}, "2 processes were launched on this machine, where PyTorch finds 0 GPUs"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP needs a GPU, and this run is one on the CPU"),
    ):
        found = launches.learn(config, config, **environment)
        assert [status for status, _ in found] == [2, 2]
        assert told in found[0][1]
        assert found[0][1].count("\n") == 1
        assert found[1][1] == ""
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_shard_that_is_missing_or_cut_is_named_before_training(two: Path, tmp_path: Path) -> None:
    config = json.loads((two / "run.json").read_text())["config"]
    path = launches.write(tmp_path / "c.yaml", {**config, "output_dir": str(tmp_path / "run")})
    whole = (two / "stages/01-b/memory/teacher-00003.safetensors").stat().st_size
    for damage, told in (
        ("gone", "missing"),
        ("cut", f"it has {whole - 100} bytes, and had {whole} when it was written"),
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(two, tmp_path / "run")
        shard = tmp_path / "run/stages/01-b/memory/teacher-00003.safetensors"
        shard.unlink() if damage == "gone" else shard.write_bytes(shard.read_bytes()[:-100])
        found = launches.learn(path, path, words=["--redo", "c"])
        assert [status for status, _ in found] == [2, 2]
        assert f"teacher-00003.safetensors: {told}" in found[0][1]
        assert [text.count("\n") for _, text in found] == [1, 0]
        assert not (tmp_path / "run/working").exists()
        assert (tmp_path / "run/stages/02-c").exists()
