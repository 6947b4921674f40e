"""`replay_limit`: how much of what is kept is replayed in a task, and where that is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SEEKR, Stop, StopAt, digests

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.runs.execute import run_request
from seekr.runs.extend import extend

LIMITED = SEEKR | {"replay_ratio": 0.5, "replay_limit": 5}
Learn = Callable[..., Run]


@pytest.fixture(scope="module")
def limited(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Seven rows a task are kept, and five replayed. Not to be written to."""
    return learn(tmp_path_factory.mktemp("limited") / "run", "abc", method=LIMITED)


def test_what_is_left_out_is_shown(limited: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, (replayed, kept) in {"01-b": (5, 7), "02-c": (5, 14)}.items():
        lines = map(json.loads, (limited.folder / f"stages/{stage}/log.jsonl").read_text().splitlines())
        for line in lines:
            found = line.get("replayed_rows"), line.get("kept_rows")
            assert found == ((replayed, kept) if line["kind"] == "replay" else (None, None))
    assert main(["status", str(limited.folder)]) == 0
    assert "replay_limit: kept rows that were replayed: b 5 of 7, c 5 of 14\n" in capsys.readouterr().out
    assert main(["status", str(limited.folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["runs"][0]["replay"]
    assert shown["c"] == {"replayed_rows": 5, "kept_rows": 14}
    assert main(["memory", str(limited.folder)]) == 0
    assert "replay_limit: the next task replays 5 of 21 kept rows: a " in capsys.readouterr().out
    assert main(["memory", str(limited.folder), "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["runs"][0]["tasks"]
    assert sorted(task["replayed"] for task in tasks) == [1, 2, 2]
    assert {entry for stage in limited.stages for step in stage.log for entry in step.parts} <= {
        "task", "replay", "logit", "attention", "grad_norm"
    }  # fmt: skip


def test_a_run_under_a_limit_that_was_stopped_goes_on_to_the_same_bits(
    limited: Run, learn: Learn, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", "abc", method=LIMITED, callbacks=[StopAt(2, 4)])
    assert digests(learn(tmp_path / "run", "abc", method=LIMITED).folder) == digests(limited.folder)


def test_a_limit_that_leaves_nothing_out_changes_nothing(finished: Run, learn: Learn, tmp_path: Path) -> None:
    """And without one a run is what it was before there was such a setting."""
    same = learn(tmp_path / "run", method=SEEKR | {"replay_limit": 100}).folder
    assert digests(same) == digests(finished.folder)
    assert digests(same, "stages/*/log.jsonl") == digests(finished.folder, "stages/*/log.jsonl")
    assert "replay_limit" not in (finished.folder / "run.json").read_text()
    assert learn(finished.folder, method=SEEKR | {"replay_limit": None}).finished


def test_a_run_keeps_its_limit_and_one_that_goes_on_from_it_may_have_another(
    limited: Run, learn: Learn, data_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(limited.folder, tmp_path / "run"))
    with pytest.raises(InputError, match=r"method.replay_limit is 5 there and not set here"):
        learn(run, "abc", method=SEEKR | {"replay_ratio": 0.5})
    request = extend(run, f"d={data_folder / 'c'}", tmp_path / "next", ["method.replay_limit=4"])
    (stage,) = (stage for stage in run_request(request).stages if stage.name == "d")
    assert {entry.replayed for entry in stage.log if entry.kind == "replay"} == {(4, 21)}


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"name": "replay", "replay_limit": 0}, "method.replay_limit: .*, not 0"),
        ({"name": "agem", "replay_limit": 5}, "method.replay_limit: .*, not 5"),
        ({"name": "ewc", "replay_limit": 5}, "replay_limit"),
    ],
)
def test_a_limit_that_says_nothing_is_refused(
    method: dict[str, object], why: str, learn: Learn, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why):
        learn(tmp_path / "run", method=method)
