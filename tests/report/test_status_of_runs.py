"""`seekr status` of a folder with runs below it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import write_run

from seekr.cli.main import main
from seekr.runs.run import Run


def test_runs_below_a_folder_are_a_line_each(tmp_path: Path, capsys):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "more" / "two", method="replay", seed=4)
    (two / "scores.json").unlink()
    assert main(["status", str(tmp_path)]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    performance = f"{Run(one).scores.overall_performance:.1f}"
    assert ["one", "seekr", "0", "3 of 3", performance] in rows
    assert ["more/two", "replay", "4", "3 of 3", "–"] in rows


@pytest.mark.parametrize(
    ("words", "row"),
    [
        (["status", "ALL"], r"│ {} +│ \d "),
        (["compare", "ALL"], r"│ {} +│ +1 "),
        (["report", "ALL", "--output", "ALL/p.html"], r"<h3>{} · seed \d</h3>"),
    ],
)
def test_runs_of_a_sweep_are_shown_next_to_a_single_run(words: list[str], row: str, tmp_path: Path, capsys):
    """SWEEP/METHOD/seed-N lay too deep, and was left out without a word; so was one that had lost its run.json."""
    write_run(tmp_path / "one")
    write_run(tmp_path / "sweep" / "replay" / "seed-4", method="replay", seed=4)
    (write_run(tmp_path / "sweep" / "derpp" / "seed-4", method="derpp", seed=4) / "run.json").unlink()
    assert main([word.replace("ALL", str(tmp_path)) for word in words]) == 0
    shown = capsys.readouterr()
    page = tmp_path / "p.html"
    text = page.read_text() if page.exists() else re.sub(" +│ +", " │ ", shown.out)
    assert [len(re.findall(row.format(method), text)) for method in ("seekr", "replay", "derpp")] == [1, 1, 0]
    assert "derpp/seed-4: left out, since its run.json is missing" in shown.err


def test_a_folder_of_runs_is_told_from_no_run_and_from_no_folder(tmp_path: Path, capsys):
    """`check` of a sweep's output_dir said to give the output_dir of `seekr learn`; a typo said the same."""
    seed = write_run(tmp_path / "sweep" / "seekr" / "seed-1")
    (tmp_path / "empty").mkdir()
    for name in ("sweep", "empty", "seep"):
        assert main(["check", str(tmp_path / name)]) == 2
    several, empty, typo = capsys.readouterr().err.splitlines()
    assert f"runs lie below it; give one of them, such as {seed};" in several
    assert "no run here (run.json is missing)" in empty
    assert "seep: no such folder" in typo


@pytest.mark.parametrize("command", ["check", "heads", "memory"])
def test_a_run_whose_first_task_is_not_learned_yet_says_so(command: str, tmp_path: Path, capsys):
    """`check` told to run `seekr evaluate`, which cannot; `heads` of seekr that seekr would choose some."""
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "stages")
    shutil.rmtree(run / "predictions", ignore_errors=True)
    (run / "scores.json").unlink()
    assert main([command, str(run)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("no task is learned yet; its own `seekr learn` command goes on with it")


def test_run_that_is_torn_is_named(tmp_path: Path, capsys):
    write_run(tmp_path / "one")
    (write_run(tmp_path / "two") / "run.json").write_text(json.dumps({"config": 1}))
    assert main(["status", str(tmp_path)]) == 2
    assert "two/run.json: not the record of a run" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status", "ALL"], ["compare", "ALL"], ["report", "ALL", "--output", "ALL/p.html"]])
def test_a_run_without_its_record_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It was left out without a word; on the page, which Python makes without a command, it stands too."""
    write_run(tmp_path / "one")
    for name in ("two", "more/three"):
        (write_run(tmp_path / name, method="replay") / "run.json").unlink()
    assert main([word.replace("ALL", str(tmp_path)) for word in words]) == 0
    said = capsys.readouterr().err.splitlines()
    lost = [str(tmp_path / name) for name in ("more/three", "two")]
    assert said == [f"seekr: {it}: left out, since its run.json is missing; bring it back from a copy" for it in lost]
    page = tmp_path / "p.html"
    assert not page.exists() or all(f"{it}: left out, since its run.json is missing" in page.read_text() for it in lost)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("words", [["launch-config", "ddp"], ["status", "RUN"], ["status", "RUN", "--json"]])
def test_a_full_disk_under_stdout_is_named(words: list[str], tmp_path: Path) -> None:
    """It was "OSError: [Errno 28] No space left on device", and no name."""
    run = str(write_run(tmp_path / "run"))
    command = [sys.executable, "-m", "seekr", *(run if word == "RUN" else word for word in words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "seekr: error: stdout: cannot be written: No space left on device\n"
    assert done.returncode == 1
