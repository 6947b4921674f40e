"""`--json`: stdout holds JSON alone, a file holds the same beside what the terminal shows, and the keys stay."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from seekr import Run
from seekr.cli.main import main

KEYS: dict[str, set[str]] = {
    "check": {"max_drop", "over", "runs"},
    "check.runs": {"run", "tasks", "general"},
    "compare": {"rows", "notes"},
    "compare.rows": {"run", "method", "seeds", "measures", "tasks"},
    "compare.rows.measures.overall_performance": {"mean", "sd", "values"},
    "compare.rows.tasks.a": {"mean", "sd", "values"},
    "evaluate.runs": {"run", "method", "seed", "scores", "general"},
    "heads.runs": {"run", "stages"},
    "heads.runs.stages": {"task", "heads", "tables"},
    "memory.runs": {"run", "tasks"},
    "status.runs": {"run", "method", "seed", "scores", "finished", "tasks", "attention_weights"},
    "status.runs.tasks": {"name", "state", "step"},
    "verify": {"faults", "runs"},
    "verify.runs": {"run", "findings"},
}
"""Where → the keys there, of a list's first; more may come, none goes."""


def at(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value[name]
        value = value[0] if isinstance(value, list) else value
    return value


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks with a memory and heads."""
    import seekr
    from seekr.builtin import builtin_model, builtin_rows

    rows = {"a": builtin_rows("span", "train", seed=0, count=8), "b": builtin_rows("upper", "train", seed=0, count=8)}
    tasks = [seekr.Task(name, train=found, test=found[:3], separator="") for name, found in rows.items()]
    method = {"name": "seekr", "replay_ratio": 0.2}
    folder = tmp_path_factory.mktemp("runs") / "one"
    seekr.learn(model=builtin_model(), tasks=tasks, method=method, training={"max_steps": 2}, output_dir=folder)
    return folder


@pytest.mark.parametrize("command", ["check", "compare", "heads", "memory", "status", "verify"])
def test_stdout_has_json_alone_and_a_file_the_same(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    plain = main([command, str(learned)])
    shown = capsys.readouterr().out
    assert main([command, str(learned), "--json"]) == plain
    printed = json.loads(capsys.readouterr().out)
    assert main([command, str(learned), "--json", str(tmp_path / "x.json")]) == plain
    assert capsys.readouterr().out == shown
    assert json.loads((tmp_path / "x.json").read_text()) == printed
    for place, keys in KEYS.items():
        name, *names = place.split(".")
        if name == command:
            assert keys <= at(printed, names).keys(), place


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "using.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", page.partition("## JSON")[2], re.MULTILINE))
    for place, keys in KEYS.items():
        command = place.partition(".")[0]
        said = rows[command] + (rows["evaluate"] if command == "status" else "")
        assert not [key for key in keys if f"`{key}`" not in said], place


def test_values_are_those_of_the_run(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(learned)

    def printed(command: str) -> Any:
        capsys.readouterr()
        assert main([command, str(learned), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert printed("status")["runs"][0]["scores"] == run.scores.to_json()
    heads = printed("heads")["runs"][0]["stages"][0]
    assert {int(layer): chosen for layer, chosen in heads["heads"].items()} == run.stages[0].heads
    assert heads["tables"]["sensitivity"][1][2] == run.stages[0].importance["sensitivity"][1, 2]
    assert printed("memory")["runs"][0]["tasks"][1]["samples"] == 2
    row = printed("compare")["rows"][0]
    assert row["measures"]["overall_performance"]["values"] == [run.scores.overall_performance]
    assert row["measures"]["overall_performance"]["sd"] is None


@pytest.mark.thorough
def test_evaluate_prints_what_it_filled_in(learned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With rows on the disk, which rows in memory are not."""
    import seekr
    from seekr.builtin import builtin_model, builtin_rows

    (tmp_path / "rows.json").write_text(json.dumps(builtin_rows("span", "train", seed=0, count=4)))
    task = seekr.Task("a", train=tmp_path / "rows.json", test=tmp_path / "rows.json")
    seekr.learn(
        model=builtin_model(), tasks=[task], method="sequential", training={"max_steps": 1}, output_dir=tmp_path / "run"
    )
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--cells", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0].keys() >= KEYS["evaluate.runs"]
    assert found["runs"][0]["scores"]["base"] != [None]


def test_several_runs_are_several_and_nothing_scored_is_null(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y"):
        shutil.copytree(learned, tmp_path / name, symlinks=True)
    (tmp_path / "y" / "scores.json").unlink()
    assert main(["status", str(tmp_path), "--json"]) == 0
    x, y = json.loads(capsys.readouterr().out)["runs"]
    assert (Path(x["run"]).name, Path(y["run"]).name) == ("x", "y")
    assert y["scores"] is None
    assert main(["compare", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    notes = json.loads(out)["notes"]
    assert notes
    assert [line for line in err.splitlines() if line.startswith("note: ")] == [f"note: {note}" for note in notes]


@pytest.mark.parametrize("command", ["heads", "memory"])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_run_without_any_is_wrong_input_either_way(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]
) -> None:
    shutil.copytree(learned, tmp_path / "run", ignore=shutil.ignore_patterns("memory", "heads.json"), symlinks=True)
    assert main([command, str(tmp_path / "run"), *words]) == 2
    assert capsys.readouterr().out == ""
