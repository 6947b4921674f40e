"""The study's harness: every run is measured once, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import grafting
import grafting_tables
import pytest
import study
import study_methods
import study_suites
import unseen_rows
import unseen_tables
from transformers import AutoModelForCausalLM, TrainerCallback

from seekr.builtin import builtin_model
from seekr.errors import InputError
from seekr.methods import METHODS

pytestmark = pytest.mark.thorough

_SMALL = [
    *("suite.tasks=[upper,reverse]", "suite.train_rows=8", "suite.eval_rows=4", "suite.general_rows=4"),
    *("training.num_train_epochs=1", "training.per_device_train_batch_size=4", "method.replay_ratio=0.25"),
]


class Stop(Exception):
    """What a test throws into a run to stop it."""


class StopInSecondTask(TrainerCallback):
    tasks = 0

    def on_train_begin(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.tasks += 1

    def on_step_end(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.tasks == 2:
            raise Stop


def _study(folder: Path, *methods: str, changes: tuple[str, ...] = ()) -> list[dict]:
    words = [
        "--base",
        "builtin",
        "--suite",
        "demo",
        "--output",
        str(folder / "out"),
        "--json",
        str(folder / "it.jsonl"),
    ]
    study.main([*words, "--methods", *methods, "--seeds", "0", "--set", *_SMALL, *changes])
    return study.rows_of(folder / "it.jsonl")


def _without_clock(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("seconds", "peak_bytes", "commit")}


def test_study_runs_measured_once(tmp_path: Path) -> None:
    """What stands in the JSON is not run again: not even its folder is needed. Another setting is another run."""
    first = _study(tmp_path, "sequential", "replay")
    assert [row["method"] for row in first] == ["sequential", "replay"]
    (tmp_path / "out").rename(tmp_path / "gone")
    assert _study(tmp_path, "sequential", "replay") == first
    assert not (tmp_path / "out").exists()
    more = _study(tmp_path, "replay", changes=("method.replay_ratio=0.5",))
    assert len(more) == 3
    assert more[2]["kept_bytes"] > more[1]["kept_bytes"] > 0


def test_study_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second task: the first is not learned again, and all scores are those of a run never stopped."""
    learn = study.learn
    monkeypatch.setattr(study, "learn", lambda **words: learn(**{**words, "callbacks": [StopInSecondTask()]}))
    with pytest.raises(Stop):
        _study(tmp_path / "stopped", "replay")
    assert not (tmp_path / "stopped" / "it.jsonl").exists()
    (first,) = (tmp_path / "stopped").glob("out/*/*/run/stages/00-upper/model/model.safetensors")
    before = first.stat().st_mtime_ns
    weights = []

    def learned(**words):  # type: ignore[no-untyped-def]
        run = learn(**words)
        weights.append(first.stat().st_mtime_ns)
        return run

    monkeypatch.setattr(study, "learn", learned)
    (resumed,) = _study(tmp_path / "stopped", "replay")
    assert weights == [before]
    monkeypatch.setattr(study, "learn", learn)
    (whole,) = _study(tmp_path / "whole", "replay")
    assert _without_clock(resumed) == _without_clock(whole)
    assert resumed["seconds"]["training"] is None  # nobody measured the first task's
    assert whole["seconds"]["training"] > 0
    assert not list(tmp_path.glob("*/out/*/*/run/stages/*/model"))  # scored, and let go


def test_study_run_taken_by_another_process(tmp_path: Path) -> None:
    """A run that is claimed is left alone, and free again once its process lets go of it."""
    with study.claimed(tmp_path / "run") as mine, study.claimed(tmp_path / "run") as other:
        assert (mine, other) == (True, False)
    with study.claimed(tmp_path / "run") as again:
        assert again


def test_study_torn_line_dropped(tmp_path: Path) -> None:
    """A process that was killed while it wrote its row leaves no row, and spoils none."""
    file = tmp_path / "it.jsonl"
    file.write_text('{"a": 1}\n{"a": ')
    study.add({"a": 2}, file)
    assert study.rows_of(file) == [{"a": 1}, {"a": 2}]
    assert json.loads(file.read_text().splitlines()[-1]) == {"a": 2}


def test_general_ability_each_stage(tmp_path: Path) -> None:
    """One number before the first task and one after each; no method keeps or replays the rows that it comes from."""
    (row,) = _study(tmp_path, "replay", changes=("method.replay_passes=1",))
    assert len(row["general"]) == 3
    assert 50 < row["general"][0] <= 100  # the built-in model knows the texts that it was pre-trained on
    assert row["steps"] == {"task": 4, "replay": 1}  # 2 kept rows of the first task: one step before the second's


def test_grafting_measured_once_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a task that another came after, of as many test rows as were asked for. A row that is gone is measured
    again of the same run, which is not learned again; weights go when it is said.
    """
    file = tmp_path / "it.jsonl"
    words = ["--base", "builtin", "--suite", "demo", "--output", str(tmp_path / "out"), "--json", str(file)]
    words += ["--methods", "sequential", "unheld", "--seeds", "0", "--rows", "3", "--set", *_SMALL]
    grafting.main(words)
    rows = study.rows_of(file)
    assert [(row["method"], row["task"]) for row in rows] == [("sequential", "upper"), ("unheld", "upper")]
    assert [[one["heads"] for one in row["found"]] for row in rows] == [["all"], ["all", "selected", "random"]]
    assert {one["rows"] for row in rows for one in row["found"]} == {3}
    file.write_text(json.dumps(rows[0]) + "\n")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*/run/stages/*/model/*")}
    grafting.main(words)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert study.rows_of(file) == rows
    grafting.main([*words, "--drop-weights"])
    assert not list(tmp_path.glob("out/*/*/run/stages/*/model"))
    assert set(grafting_tables.grafting_tables("it", rows)) == {"it", "it: tasks"}


def test_unseen_rows_beside_kept_ones(tmp_path: Path) -> None:
    """A row a task that another came after; of a run that is finished nothing is learned again."""
    file = tmp_path / "it.jsonl"
    words = ["--base", "builtin", "--suite", "demo", "--output", str(tmp_path / "out"), "--json", str(file)]
    words += ["--methods", "derpp", "seekr", "--seeds", "0", "--rows", "3", "--set", *_SMALL]
    unseen_rows.main(words)
    unseen_rows.main([*words, "--methods", "derpp", "--rows", "2"])
    assert [row["unseen"]["rows"] for row in study.rows_of(file)] == [3, 3, 2]
    rows = study.rows_of(file)[:2]
    assert [(row["method"], row["task"]) for row in rows] == [("derpp", "upper"), ("seekr", "upper")]
    for row in rows:
        assert row["unseen"]["rows"] == 3
        assert row["kept"]["drift"] > 0
        assert (row["kept"]["drift_of_kept_heads"] is None) == (row["method"] == "derpp")
        assert row["labels"] is None or row["labels"]["right"] <= row["labels"]["own"] <= row["labels"]["answers"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*/run/stages/*/model/*")}
    file.unlink()
    unseen_rows.main([*words, "--drop-weights"])
    assert [row["unseen"] for row in study.rows_of(file)] == [row["unseen"] for row in rows]
    assert before
    assert not list(tmp_path.glob("out/*/*/run/stages/*/model"))
    assert unseen_tables.unseen_table(rows).count("\n") == 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--methods", "sekr"), "there is no 'sekr'"),
        (("--methods", "sequential", "--set", "method.replay_ratio=0.1"), "none of the chosen methods"),
        (("--methods", "replay", "--set", "replay_ratio=0.1"), "a key begins with"),
        (("--methods", "replay", "--set", "suite.rows=3"), "a suite has"),
    ],
)
def test_study_refuses(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    """A wrong word is told in one line, before anything is trained."""
    fixed = ["--base", "builtin", "--suite", "demo", "--output", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    with pytest.raises(SystemExit, match=part):
        study.main([*fixed, "--seeds", "0", *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", [k for k, v in study_methods.LABELS.items() if v["method.name"] in METHODS])
@pytest.mark.parametrize("suite", study_suites.SUITES)
def test_labels_resolve(label: str, suite: str) -> None:
    """Every label of a method that is there makes a valid one on every suite."""
    common = {f"method.{key}": value for key, value in study_suites.SUITES[suite].method.items()}
    try:
        settings = study_methods.resolve(label, common, {})
    except InputError as error:
        pytest.skip(f"this version does not have it: {error}")
    if label == "seekr-all":
        assert (settings["method"]["layer_budget"], settings["method"]["head_budget"]) == ("all", "all")


def test_what_ewc_keeps_next_to_the_weights_is_counted(tmp_path: Path) -> None:
    """It was 0 kB: two numbers with each weight lie in the newest model's folder."""
    row = _study(tmp_path, "ewc", "replay")[0]
    parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_pretrained(builtin_model()).parameters())
    assert row["kept_bytes"] == pytest.approx(2 * 4 * parameters, rel=0.05)
