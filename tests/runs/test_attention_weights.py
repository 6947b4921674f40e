"""The weight of the attention loss through whole runs: where it comes from, what is said of it, how it may change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import SEEKR, TRAINING, Stop, StopAt, digests

from seekr import Run, Task
from seekr.attention.weight import automatic_weight, mean_drift
from seekr.cli.main import main

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
AUTO = {**SEEKR, "attention_weight": "auto"}


def replays(run: Run, stage: int) -> list[dict[str, Any]]:
    lines = map(json.loads, (run.stages[stage].folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "replay"]


def drift_of(run: Run, stages: int) -> float | None:
    tasks = []
    for stage in run.stages[:stages]:
        heads = json.loads((stage.folder / "heads.json").read_text())
        table = load_file(stage.folder / "importance.safetensors")["drift"]
        tasks.append((table, {int(layer): kept for layer, kept in heads.items()}))
    return mean_drift(tasks)


def test_the_weight_is_that_of_the_tasks_so_far_and_is_logged(learn: Learn, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", "abc", method=AUTO)
    assert not replays(run, 0)
    for stage in (1, 2):
        weights = {line["attention_weight"] for line in replays(run, stage)}
        assert weights == {automatic_weight(drift_of(run, stage))}
    assert drift_of(run, 1) != drift_of(run, 2)


def test_before_any_drift_is_known_the_weight_is_that_of_one_nat(
    learn: Learn, task: Callable[..., Task], tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", [task("a", learn=False), task("b")], method=AUTO)
    assert {line["attention_weight"] for line in replays(run, 1)} == {automatic_weight(None)}


def test_a_stopped_run_takes_the_weight_again(learn: Learn, tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", "abc", method=AUTO)
    with pytest.raises(Stop):
        learn(tmp_path / "stopped", "abc", method=AUTO, callbacks=[StopAt(2, 3)])
    again = learn(tmp_path / "stopped", "abc", method=AUTO)
    assert digests(again.folder) == digests(whole.folder)
    assert replays(again, 2) == replays(whole, 2)


def test_a_weight_out_of_proportion_is_told_once_and_on_status_and_page(
    learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learn(tmp_path / "run", "abc", method={**SEEKR, "attention_weight": 1e9})
    assert capsys.readouterr().err.count("set method.attention_weight to auto") == 1
    assert main(["status", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    assert "attention weight: b 1e+09, c 1e+09" in shown
    assert "times too large" in shown
    assert main(["report", str(run.folder), "--output", str(tmp_path / "page.html")]) == 0
    assert "times too large" in (tmp_path / "page.html").read_text()


def more(run: Run, data: Path, *words: str) -> list[str]:
    return ["learn", "--from", str(run.folder), "--task", f"c={data / 'c'},max_new_tokens=3", *words]


def test_a_weight_may_change_on_the_way_and_the_run_says_so(
    learn: Learn, finished: Run, data_folder: Path, tmp_path: Path
) -> None:
    words = ["method.attention_weight=auto", "method.replay_passes=2", "training.learning_rate=0.02"]
    given = more(finished, data_folder, "--output-dir", str(tmp_path / "more"), *words)
    assert main(given) == 0
    run = Run(tmp_path / "more")
    assert run.record["changed"] == [
        {
            "after_stages": 2,
            "settings": {
                "method.attention_weight": [SEEKR["attention_weight"], "auto"],
                "method.replay_passes": [4, 2],
                "training.learning_rate": [TRAINING["learning_rate"], 0.02],
            },
        }
    ]
    assert {line["attention_weight"] for line in replays(run, 2)} == {automatic_weight(drift_of(run, 2))}
    assert max(line["learning_rate"] for line in replays(run, 2)) > TRAINING["learning_rate"]
    before = digests(run.folder)
    assert main(given) == 0  # finished: nothing to do, and what changed is still there
    assert digests(run.folder) == before
    assert Run(tmp_path / "more").record["changed"] == run.record["changed"]
    third = ["learn", "--from", str(run.folder), "--task", f"d={data_folder / 'a'},max_new_tokens=3"]
    assert main([*third, "--output-dir", str(tmp_path / "third")]) == 0
    assert Run(tmp_path / "third").record["changed"] == run.record["changed"]


@pytest.mark.parametrize(
    "word", ["method.replay_ratio=0.5", "method.head_budget=1", "dtype=bfloat16", "seed=3", "model=x"]
)
def test_what_was_kept_with_other_settings_does_not_change(
    finished: Run, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main(more(finished, data_folder, "--output-dir", str(tmp_path / "more"), word)) == 2
    told = capsys.readouterr().err
    assert word in told
    assert "method.attention_weight" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "more").exists()


def test_a_run_of_before_the_replay_passes_is_the_same_run(
    learn: Learn, task: Callable[..., Task], tmp_path: Path
) -> None:
    """Its record does not name them; it replayed every kept row once an epoch."""
    method = {**SEEKR, "replay_passes": None}
    run = learn(tmp_path / "run", "ab", method=method)
    record = run.record
    for settings in (record["config"]["method"], record["identity"]["method"]):
        del settings["replay_passes"]
    del record["changed"], record["sha256"]
    (run.folder / "run.json").write_text(json.dumps(record))
    assert main(["evaluate", str(run.folder)]) == 0
    assert len(learn(run.folder, "abc", method=method).stages) == 3
    with pytest.raises(Exception, match=r"method.replay_passes is null there and 4 here"):
        learn(run.folder, "abc", method=SEEKR)
