"""A stage on new rows is scored as the run scores its task, and nothing of the run changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from snapshot import snapshot

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.scoring.uncertainty import error_of_rows
from seekr.use.score import score

RunOf = Callable[[str], Run]


@pytest.mark.parametrize(
    "form",
    [
        "whole",
        "prompts",
        "likelihood",
        *(pytest.param(form, marks=pytest.mark.thorough) for form in ("lora", "halves", "joint", "pool", "drawn")),
    ],
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_runs_own_rows_score_what_they_did(run_of: RunOf, data: Path, form: str, name: str) -> None:
    """By the same answers, of an earlier task too; the run is as it was."""
    run, before = run_of(form), snapshot(run_of(form).folder)
    found = score(run.folder, f"{name}={data / name}")
    column = "ab".index(name)
    assert found.score == run.scores.matrix[1][column]
    kept = (run.folder / "predictions" / f"1-{column}.jsonl").read_text().splitlines()
    assert found.lines == [json.loads(line) for line in kept]
    assert snapshot(run.folder) == before


def test_new_rows_by_the_command(run_of: RunOf, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = run_of("whole"), tmp_path / "answers.jsonl"
    command = ["score", str(run.folder), "--task", f"a={data / 'new.json'}", "--stage", "a"]
    capsys.readouterr()
    assert main([*command, "--json", "--output", str(output)]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    right = [100.0 * (line["prediction"].strip() in line["references"]) for line in lines]
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in json.loads((data / "new.json").read_text())]
    assert found["score"] == pytest.approx(sum(right) / 7)
    assert found["error"] == pytest.approx(error_of_rows(right))
    assert {key: found[key] for key in ("stage", "task", "rows", "metric", "max_new_tokens")} == {
        "stage": "a", "task": "a", "rows": 7, "metric": "accuracy", "max_new_tokens": 4,
    }  # fmt: skip
    assert main(command) == 0
    assert "(standard error) on 7 rows, after a\n" in capsys.readouterr().out


def test_keys_win_over_what_the_run_says(run_of: RunOf, data: Path) -> None:
    folder, new = run_of("whole").folder, data / "new.json"
    plain, other = score(folder, f"a={new}"), score(folder, f"other={new},max_new_tokens=4")
    assert [line["prediction"] for line in plain.lines] == [line["prediction"] for line in other.lines]
    few = score(folder, f"a={new},max_new_tokens=2,metric=edit_similarity,test_limit=3")
    assert (few.rows, few.metric, few.max_new_tokens) == (3, "edit_similarity", 2)
    likely = score(folder, f"a={new},metric=likelihood")
    assert (likely.error, likely.max_new_tokens) == (None, None)
    assert 0 < likely.score <= 100


def test_rows_that_are_gone_are_not_those_that_were_answered(run_of: RunOf, data: Path, tmp_path: Path) -> None:
    """A finished task whose test file is gone is scored by its answers; new rows that are not there are none."""
    with pytest.raises(InputError, match="no such file or folder"):
        score(run_of("whole").folder, f"a={tmp_path / 'gone.json'}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a", "it reads NAME=PATH"),
        ("a={data}/new.json,lr=1", "unknown key 'lr'"),
        ("a={data}/new.json,test=x.json", "test has no use here"),
        ("a={data}/new.json,metric=exact", "unknown metric 'exact'"),
        ("a={data}/new.json,max_new_tokens=40", "leaves no room for a prompt"),
        ("../a={data}/new.json", "task name '../a'"),
    ],
)
def test_wrong_words_are_one_line(
    run_of: RunOf, data: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    folder = run_of("whole").folder
    capsys.readouterr()
    assert main(["score", str(folder), "--task", text.format(data=data)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err


def test_files_that_cannot_be_written_are_told_first(
    run_of: RunOf, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_of("whole").folder
    for option in ("--json", "--output"):
        assert main(["score", str(folder), "--task", f"a={data}/new.json", option, str(tmp_path / "no" / "x")]) == 2
        assert f"{option}: " in capsys.readouterr().err
