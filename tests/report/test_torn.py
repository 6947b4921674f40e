"""A file of a run that cannot be read: the page shows the others, and names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_runs import write_run

from seekr.cli.main import main
from seekr.disk.files import with_own_hash
from seekr.report.torn import TornRun
from seekr.runs.run import Run

TORN = [
    "scores.json",
    "general.json",
    "graft.json",
    "predictions/0-0.jsonl",
    "stages/01-sort/heads.json",
    "stages/01-sort/log.jsonl",
    "stages/01-sort/importance.safetensors",
]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.mark.parametrize("name", TORN)
def test_the_page_shows_the_rest_and_names_what_cannot_be_read(
    whole: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No page was written of six runs where one line of one file was torn."""
    other = write_run(tmp_path / "other", method="replay")
    (whole / name).write_text("{")
    page = tmp_path / "page.html"
    assert main(["report", str(whole), str(other), "--output", str(page)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not on the page" in line]
    assert len(said) == 1
    assert str(whole / name) in said[0]
    text = page.read_text()
    assert text.count("Not on this page") == 1
    assert name in text.partition("Not on this page")[2].partition("</p>")[0]
    assert text.count("· seed 0</h3>") == 2


def test_what_is_torn_is_as_if_it_were_not_there(whole: Path) -> None:
    for name in TORN:
        (whole / name).write_text("{")
    run = TornRun(whole)
    assert (run.scored, run.grafted, run.general_scores, run.answers(0, 0)) == (None, (), (), [])
    stage = run.stages[1]
    assert (stage.heads, stage.importance, stage.log, stage.trained) == ({}, {}, (), True)
    assert sorted(fault.partition(",")[0].partition(": ")[0] for fault in run.faults) == sorted(
        str(whole / name) for name in TORN
    )


def test_a_whole_run_has_no_faults(whole: Path) -> None:
    torn, run = TornRun(whole), Run(whole)
    assert (torn.scored, torn.grafted) == (run.scored, run.grafted)
    assert [stage.heads for stage in torn.stages] == [stage.heads for stage in run.stages]
    assert [stage.log for stage in torn.stages] == [stage.log for stage in run.stages]
    assert torn.faults == ()


def test_without_its_record_there_is_nothing_to_show(whole: Path, tmp_path: Path) -> None:
    (whole / "run.json").write_text("{")
    assert main(["report", str(whole), "--output", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("command", ["status", "check", "compare"])
def test_general_tasks_that_cannot_be_read_are_said_once_and_the_rest_is_shown(
    whole: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same fault was printed twice, and nothing else."""
    (whole / "general.json").write_text("null\n")
    assert main([command, str(whole)]) in (0, 3)
    said = capsys.readouterr()
    assert said.err.count("general.json") == 1
    assert {"copy", "sort", "add"} <= set(said.out.split())


@pytest.mark.parametrize("name", ["scores.json", "stages/01-sort/log.jsonl"])
def test_status_shows_what_is_there(whole: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / name).write_text("{")
    assert main(["status", str(whole)]) == 0
    said = capsys.readouterr()
    assert f"not shown: {whole / name}, line 1: broken JSON" in said.err
    assert said.out.count("done") == 3


@pytest.mark.parametrize("name", ["heads.json", "importance.safetensors"])
def test_heads_of_the_other_stages_are_shown(whole: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "stages/01-sort" / name).write_text("{")
    assert main(["heads", str(whole)]) == 0
    said = capsys.readouterr()
    assert f"not shown: {whole / 'stages/01-sort' / name}" in said.err
    assert all(f"after {task}" in said.out for task in ("copy", "add"))


@pytest.mark.parametrize("command", ["check", "compare"])
def test_a_verdict_without_its_scores_is_none(whole: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "scores.json").write_text("{")
    assert main([command, str(whole)]) == 2
    assert capsys.readouterr().err.count("scores.json") == 1


def test_the_page_names_scores_that_are_not_what_was_written(whole: Path, tmp_path: Path) -> None:
    """A score that somebody had changed stood there as the others do."""
    path, page = whole / "scores.json", tmp_path / "page.html"
    content = with_own_hash(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    assert main(["report", str(whole), "--output", str(page)]) == 0
    assert "Not as it was written" not in page.read_text()
    content["matrix"][2][2] = 77.7
    path.write_text(json.dumps(content))
    (whole / "predictions/2-0.jsonl").unlink()
    assert main(["report", str(whole), "--output", str(page)]) == 0
    text = page.read_text()
    assert "Not as it was written: " in text
    assert f"{path}: not what was written; <code>seekr evaluate</code> makes scores again" in text
    assert f"{whole / 'predictions/2-0.jsonl'}: missing" in text


@pytest.mark.parametrize("name", TORN)
@pytest.mark.parametrize("command", ["status", "check", "heads"])
def test_a_torn_file_is_named_once(whole: Path, name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """graft.json was named by what verifies a run, and again by what shows it, in other words."""
    (whole / name).write_text("{")
    main([command, str(whole)])
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if f"{whole / name}:" in line or f"{whole / name}," in line
    ]
    assert len(lines) <= 1, lines
