"""The demo, cut down: every method in a folder of its own, a table, a page, and JSON."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from shown import cells

from seekr import Run
from seekr.builtin import demo
from seekr.cli.main import main

pytestmark = pytest.mark.thorough


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TASKS", dict(list(demo.TASKS.items())[:2]))
    monkeypatch.setattr(demo, "ROWS", {"train": 50, "eval": 4, "test": 4})
    monkeypatch.setattr(demo, "TRAINING", {**demo.TRAINING, "max_steps": 2})


def test_demo(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--output-dir", str(tmp_path / "demo"), "--seed", "7", "--json", str(tmp_path / "demo.json")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "demo.json").read_text())
    methods = ["sequential", "replay", "derpp", "seekr", "joint"]
    side_by_side = out.partition("Methods side by side")[2]
    assert [row["method"] for row in content["rows"]] == methods
    for row in content["rows"]:
        assert row.keys() == {"method", "seed", "overall_performance", "backward_transfer", "seconds"}
        assert row["seed"] == 7
        assert f"{row['overall_performance']:.1f}" == cells(side_by_side, row["method"])[2].rstrip("*")
        assert row["seconds"] > 0
        scores = Run(tmp_path / "demo" / row["method"]).scores
        assert scores.overall_performance == row["overall_performance"]
    assert f"\nseekr {content['rows'][3]['overall_performance']:.1f} ± " in side_by_side
    assert side_by_side.count(" of joint's ") == 4
    assert content["machine"]["python"] == platform.python_version()
    page = (tmp_path / "demo" / "report.html").read_text()
    assert [page.count(f">{method}</") > 0 for method in methods] == [True] * 5

    assert main(arguments) == 0  # everything is there: nothing is learned again
    assert json.loads((tmp_path / "demo.json").read_text())["rows"] == content["rows"]
    capsys.readouterr()
    assert main(["demo", "--output-dir", str(tmp_path / "demo"), "--seed", "8"]) == 2
    assert "holds a demo of seed-7" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "data" / "seed-8").exists()


def test_a_small_demo_and_the_whole_one_after_it(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SMALL_TASKS", 1)
    arguments = ["demo", "--output-dir", str(tmp_path / "demo")]
    assert main([*arguments, "--small"]) == 0
    out = capsys.readouterr().out
    assert "3 methods learn 1 tasks" in out
    assert "minutes on two processor cores" in out
    for name in demo.SMALL:
        assert [stage.name for stage in Run(tmp_path / "demo" / name).stages] == [next(iter(demo.TASKS))]
    assert not (tmp_path / "demo" / "joint").exists()
    first = (tmp_path / "demo" / "seekr" / "stages" / "00-lookup" / "stage.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert [stage.name for stage in Run(tmp_path / "demo" / "seekr").stages] == list(demo.TASKS)
    assert (tmp_path / "demo" / "seekr" / "stages" / "00-lookup" / "stage.json").stat().st_mtime_ns == first


def test_a_demo_does_not_write_into_a_folder_of_other_things(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert f"--output-dir: {tmp_path} holds 'thesis.tex', which is no part of a demo" in capsys.readouterr().err
    assert main(["demo", "--output-dir", str(tmp_path / "new"), "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert f"--json: {tmp_path / 'no' / 'x.json'} cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
