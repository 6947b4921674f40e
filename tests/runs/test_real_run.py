"""A real model on real tasks, killed twice: what a practitioner would do, whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import digests

TASKS = {"task591": 24, "task363": 8, "task195": 8}  # SuperNI task -> tokens of an answer


def _config(shared: Path, output: Path) -> dict[str, object]:
    return {
        "model": str(shared / "models" / "stories260K"),
        "tasks": [
            {
                "name": name,
                "train": str(shared / "data" / "superni" / name / "train.json"),
                "test": str(shared / "data" / "superni" / name / "test.json"),
                "metric": "rouge_l",
                "max_new_tokens": tokens,
                "train_limit": 300,
                "test_limit": 50,
            }
            for name, tokens in TASKS.items()
        ],
        "method": {"name": "seekr", "replay_ratio": 0.02},
        "training": {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "save_steps": 10,
        },
        "output_dir": str(output),
    }


def _learn(config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "seekr", "learn", str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _kill_once_there(process: subprocess.Popen[bytes], run: Path, pattern: str) -> None:
    deadline = time.monotonic() + 600
    while not list(run.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, f"the run ended before {pattern} appeared: {process.communicate()[1]!r}"
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_real_run_killed_in_mid_task_and_between_tasks_equals_one_never_stopped(shared: Path, tmp_path: Path) -> None:
    runs = {}
    for name in ("killed", "whole"):
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(_config(shared, tmp_path / name)))
        runs[name] = config
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # In the middle of the second task, which replays the first; then as soon as the second stage stands.
    _kill_once_there(_learn(runs["killed"]), killed, "working/01-*/checkpoint-*/complete.json")
    assert (killed / "stages" / "00-task591").is_dir()
    _kill_once_there(_learn(runs["killed"]), killed, "stages/01-*")
    for name in runs:
        process = _learn(runs[name])
        _, error = process.communicate(timeout=900)
        assert process.returncode == 0, error.decode()

    assert len(digests(whole)) >= 3 * 4  # model, importance, kept samples and teacher of every stage
    assert digests(killed) == digests(whole)
    assert digests(killed, "predictions/*.jsonl") == digests(whole, "predictions/*.jsonl")
    scores = [json.loads((run / "scores.json").read_text()) for run in (killed, whole)]
    assert scores[0] == scores[1]
    assert scores[0]["overall_performance"] is not None
    for stage in sorted((whole / "stages").iterdir()):
        logs = [
            [json.loads(line) for line in (run / "stages" / stage.name / "log.jsonl").read_text().splitlines()]
            for run in (killed, whole)
        ]
        assert [line["step"] for line in logs[0]] == list(range(1, len(logs[1]) + 1))
        assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
