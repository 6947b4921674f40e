"""The guard of general ability: rows that no task trains on, scored before the first task and after every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import Stop, StopAt, digests

from seekr import Run
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.modeling import generation
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

ROWS = [{"prompt": f"what is {n}?", "answer": f"it is {n}"} for n in ("up", "down", "left")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("general") / "general.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.fixture(scope="module")
def guarded(learn: Callable[..., Run], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(tmp_path_factory.mktemp("guarded") / "run", general=rows)


def test_guard_is_the_likelihood_of_every_stage_and_changes_nothing_else(
    guarded: Run, finished: Run, learn: Callable[..., Run], rows: Path, tmp_path: Path
) -> None:
    """Equal to what a skill with the same rows scores under cells: all; the weights and scores of the run without."""
    from seekr import Task

    watched = Task("watched", train=json.loads(rows.read_text())[:1], test=rows, metric="likelihood")
    alike = learn(tmp_path / "alike", ["a", "b", watched], cells="all").scores
    assert guarded.scores.general == [alike.base[2], alike.matrix[0][2], alike.matrix[1][2]]
    assert len(set(guarded.scores.general)) == 3
    assert digests(guarded.folder) == digests(finished.folder)
    plain = finished.scores.to_json()
    assert {key: value for key, value in guarded.scores.to_json().items() if key != "general"} == plain


def test_stopped_run_measures_what_one_that_was_never_stopped_does(
    guarded: Run, learn: Callable[..., Run], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", general=rows, callbacks=[StopAt(1, 1)])
    kept = json.loads((tmp_path / "run" / "scores.json").read_text())["general"]
    assert kept == [*guarded.scores.general[:2], None]  # before the first task, and after it, by then
    assert learn(tmp_path / "run", general=rows).scores == guarded.scores
    with monkeypatch.context() as patched:
        patched.setattr(generation, "answer_likelihoods", None)  # nothing is measured again
        assert learn(tmp_path / "run", general=rows).scores == guarded.scores


def test_guard_comes_later_goes_and_comes_back(
    finished: Run, guarded: Run, learn: Callable[..., Run], rows: Path, tmp_path: Path
) -> None:
    """It is no part of what a run is; a score gives way to a new measurement alone."""
    import shutil

    shutil.copytree(finished.folder, tmp_path / "run", symlinks=True)
    assert learn(tmp_path / "run", general=rows).scores == guarded.scores
    assert learn(tmp_path / "run").scores == guarded.scores
    assert main(["verify", str(tmp_path / "run")]) == 0
    other = {"test": str(rows), "test_limit": 2}
    changed = learn(tmp_path / "run", general=other).scores.general
    assert not set(changed) & set(guarded.scores.general)


def test_scores_of_other_rows_are_not_put_in_one_row_with_new_ones(
    learn: Callable[..., Run], rows: Path, tmp_path: Path
) -> None:
    """Where the first stage's weights are gone, its score of the old guard goes, and evaluate says what is left out."""
    run = learn(tmp_path / "run", general=rows, keep_stages="last")
    again = learn(tmp_path / "run", general={"test": str(rows), "test_limit": 2}, keep_stages="last")
    assert again.scores.general[1] is None
    assert None not in (again.scores.general[0], again.scores.general[2])
    assert run.scores.matrix == again.scores.matrix


def test_rows_may_be_deleted_once_they_are_scored(learn: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "general.json"
    path.write_text(json.dumps(ROWS))
    run = learn(tmp_path / "run", ["a"], general=path)
    path.unlink()
    assert evaluate(run.folder).scores == run.scores
    with pytest.raises(InputError, match=r"general\.json.*put the file back"):
        learn(tmp_path / "run", ["a", "b"], general=path)


def test_one_more_task_is_measured_where_answers_to_the_guard_were_taken_back(
    guarded: Run, learn: Callable[..., Run], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: those of before are not asked again, and the line that compares with them was a KeyError."""
    run = Path(shutil.copytree(guarded.folder, tmp_path / "run"))
    assert main(["memory", str(run), "--remove-matching", "what is down?"]) == 0
    before = guarded.scores.general
    general = learn(run, "abc", general=rows).scores.general
    assert general[:-1] == before
    assert f"general ability {before[0]:.1f} → {general[-1]:.1f} after c" in capsys.readouterr().err
    assert len((run / "predictions/1-general.jsonl").read_text().splitlines()) == len(ROWS) - 1


def test_one_more_task_is_guarded_too(guarded: Run, data_folder: Path, tmp_path: Path) -> None:
    task = f"c={data_folder / 'c'},max_new_tokens=3"
    assert main(["learn", "--from", str(guarded.folder), "--task", task, "--output-dir", str(tmp_path / "c")]) == 0
    general = Run(tmp_path / "c").scores.general
    assert general[:3] == guarded.scores.general
    assert len(general) == 4
    assert general[3] not in (None, *general[:3])


@pytest.mark.parametrize("method", ["joint", "progressive_prompts"])
def test_guard_of_methods_with_one_stage_or_prompts(
    learn: Callable[..., Run], rows: Path, tmp_path: Path, method: str
) -> None:
    general = learn(tmp_path / "run", method=method, general=rows).scores.general
    assert [score is None for score in general] == ([False, True, False] if method == "joint" else [False] * 3)


def test_its_change_is_told_everywhere(
    guarded: Run, finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before, now = guarded.scores.general[0], guarded.scores.general[2]
    word = f"general ability {before:.1f} → {now:.1f}"
    for command in (["status"], ["check", "--max-drop", "100"], ["evaluate"]):
        assert main([*command, str(guarded.folder)]) == 0
        assert word in capsys.readouterr().out
        assert main([*command, str(guarded.folder), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["runs"][0]["general"]
        assert told == {"before": before, "now": now, "tasks": []}
        main([*command, str(finished.folder)])
        assert "general" not in capsys.readouterr().out.lower()
    assert main(["report", str(guarded.folder), "--output", str(tmp_path / "page.html")]) == 0
    assert word[1:] in (tmp_path / "page.html").read_text()


def test_each_seed_tells_its_own(
    learn: Callable[..., Run], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: Any = learn(tmp_path / "run", ["a"], general=rows, method="sequential", seeds=[1, 2])
    capsys.readouterr()
    for command, name in (("status", "seed-{}"), ("evaluate", "seed {}")):
        assert main([command, str(tmp_path / "run")]) == 0
        out = capsys.readouterr().out
        for run in runs:
            before, now = run.scores.general
            assert f"{name.format(run.seed)}: general ability {before:.1f} → {now:.1f}" in out


def test_log_says_each_score_as_it_is_measured(
    learn: Callable[..., Run], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = learn(tmp_path / "run", ["a"], general=rows).scores.general
    said = [line for line in capsys.readouterr().err.splitlines() if "general ability" in line]
    assert said == [
        f"seekr: general ability {general[0]:.1f} before any task",
        f"seekr: general ability {general[0]:.1f} → {general[1]:.1f} after a",
    ]


def test_rows_that_a_task_trains_on_are_told(
    learn: Callable[..., Run], data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path / "run", ["a"], general=data_folder / "a" / "train.json")
    assert "seekr: general: 14 of its 14 rows are trained on by a; give it rows of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("general", "said"),
    [
        ({"metric": "accuracy"}, "general: unknown key 'metric'"),
        ({"test_limit": 3}, "general: the key 'test' is missing"),
        ("nothing/there.json", "nothing/there.json"),
        (3, "general: "),
    ],
)
def test_what_cannot_be_a_guard_is_refused(learn: Callable[..., Run], tmp_path: Path, general: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        learn(tmp_path / "run", ["a"], general=general)
    assert not (tmp_path / "run" / "run.json").exists()


def test_stage_that_is_learned_again_is_measured_again(learn: Callable[..., Run], rows: Path, tmp_path: Path) -> None:
    """Its score goes with it, and the same stage scores the same."""
    from seekr.runs.execute import run_request
    from seekr.runs.prepare import Request

    run = learn(tmp_path / "run", general=rows)
    kept = run.scores.general
    with pytest.raises(Stop):
        run_request(Request(run.config, redo="b", callbacks=[StopAt(0, 1)]))
    assert run.scores.general == [*kept[:2], None]
    assert run_request(Request(run.config)).scores.general == kept
