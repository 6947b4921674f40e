"""scores.json says which model answered each row, and by a hash of its own that it is what was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earlier_runs import without
from small_runs import SEEKR, digests

from seekr import InputError, Run, evaluate
from seekr.cli.main import main
from seekr.disk.files import with_own_hash
from seekr.runs import execute
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.general_tasks import GENERAL_FILE, GeneralScore, read_general, write_general
from seekr.runs.grafted import Grafted, add_grafted, read_grafted
from seekr.runs.kept_scores import forget_rows
from seekr.runs.prepare import Request
from seekr.runs.verify import verify

OTHERS = "was answered by a model that is not in this run"


@pytest.fixture(scope="module")
def two_seeds(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("seeds")
    first, second = (learn(place / str(seed), "ab", seed=seed).folder for seed in (0, 1))
    return first, second


@pytest.fixture
def run(two_seeds: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_seeds[0], tmp_path / "run", symlinks=True))


def take_scores(source: Path, run: Path) -> None:
    shutil.copy(source / "scores.json", run)
    shutil.copytree(source / "predictions", run / "predictions", dirs_exist_ok=True)


def test_scores_and_answers_of_another_run_are_not_taken_for_its_own(
    run: Path, two_seeds: tuple[Path, Path], learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: both agreed with each other, and nothing said whose they were."""
    take_scores(two_seeds[1], run)
    before = digests(run, "**/*")
    for go_on in (lambda: evaluate(run, "all"), lambda: learn(run, "abc")):
        with pytest.raises(InputError, match=f"row 0, 1 of its scores {OTHERS}"):
            go_on()
    assert digests(run, "**/*") == before
    assert any(OTHERS in finding.text for finding in verify(Run(run)))
    for command in ("status", "check", "compare"):
        capsys.readouterr()
        main([command, str(run)])
        assert OTHERS in capsys.readouterr().err, command


def test_scores_that_were_moved_away_are_measured_again(run: Path, two_seeds: tuple[Path, Path]) -> None:
    wanted = json.loads((run / "scores.json").read_text())
    take_scores(two_seeds[1], run)
    (run / "scores.json").unlink()
    shutil.rmtree(run / "predictions")
    evaluate(run, "seen")
    assert json.loads((run / "scores.json").read_text()) == wanted


def test_a_score_that_was_changed_by_hand_is_named_by_whoever_shows_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((run / "scores.json").read_text())
    content["matrix"][1][1] = content["overall_performance"] = 99.0
    (run / "scores.json").write_text(json.dumps(content))
    for command in ("status", "check", "compare", "verify"):
        capsys.readouterr()
        main([command, str(run)])
        told = capsys.readouterr()
        assert "scores.json: not what was written" in told.out + told.err, command
    evaluate(run, "seen")
    assert not verify(Run(run))


def test_scores_that_are_gone_are_made_again_with_a_word(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = (run / "scores.json").read_text()
    (run / "scores.json").unlink()
    evaluate(run, "seen")
    assert "scores.json: missing; scores are made again from the answers" in capsys.readouterr().err
    assert (run / "scores.json").read_text() == wanted


def test_a_changed_score_that_cannot_be_scored_again_is_never_vouched_for(run: Path) -> None:
    """Found by review: its number stayed, under a hash that was new."""
    shutil.rmtree(run / "stages/00-a/model")  # as keep_stages does
    (run / "predictions/0-0.jsonl").unlink()
    content = json.loads((run / "scores.json").read_text())
    content["matrix"][0][0] = 99.0
    (run / "scores.json").write_text(json.dumps(content))
    for go_on in (lambda: forget_rows(run, 1), lambda: evaluate(run, "seen")):  # the first as --redo does
        go_on()
        assert Run(run).scores.matrix[0][0] == 99.0
        assert any("scores.json: not what was written" in finding.text for finding in verify(Run(run)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("answers", {"foo": "x"}),
        ("answers", {"0": "x"}),
        ("answers", {"1-2-3": "x"}),
        ("answers", {"9" * 5000 + "-0": "x"}),
        ("answers", None),
        ("answers", "x"),
        ("removed_answers", [1]),
        ("removed_answers", {"0-0": "x"}),
        ("removed_answers", {"0-0": []}),
        ("answered_by", {"0": 1}),
    ],
)
def test_names_and_values_that_scores_do_not_have_are_one_line(
    key: str, value: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: tracebacks of evaluate, verify and a removal."""
    content = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps(with_own_hash(content | {key: value})))
    assert main(["verify", str(run)]) == 3
    assert f"scores.json: not the scores of a run; {key}" in capsys.readouterr().out
    assert main(["memory", str(run), "--remove-matching", " 0="]) == 2
    assert f"not the scores of a run; {key}" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0
    assert not verify(Run(run))


def test_a_row_whose_stage_was_lost_and_learned_again_names_its_new_model(run: Path, learn: Callable[..., Run]) -> None:
    """Found by review, of versions that did not name their stages: the run refused to go on from then on."""
    without(run / "run.json", "sha256", "stages")
    content = json.loads((run / "scores.json").read_text())
    content["answered_by"]["1"] = "as other packages had learned it"
    (run / "scores.json").write_text(json.dumps(with_own_hash(content)))
    shutil.rmtree(run / "stages/01-b")
    for _ in range(2):
        learn(run, "ab")
    assert not verify(Run(run))


def test_scores_of_an_earlier_version_are_gone_on_with_and_say_whose_they_are_then(
    run: Path, learn: Callable[..., Run]
) -> None:
    without(run / "scores.json", "sha256", "answered_by")
    assert not verify(Run(run))
    learn(run, "abc")
    content = json.loads((run / "scores.json").read_text())
    assert sorted(content["answered_by"]) == ["0", "1", "2"]
    assert with_own_hash(content) == content


def test_a_run_killed_after_it_learned_a_stage_again_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are of the new model then, and scores.json knows nothing of the one before."""

    class Killed(BaseException):
        pass

    real = execute.ScoreBook.write

    def kill(self: execute.ScoreBook) -> None:
        if (run / "predictions/1-1.jsonl").exists():
            raise Killed
        real(self)

    content = json.loads((run / "scores.json").read_text())
    content["answered_by"]["1"] = "as other packages had learned it"
    (run / "scores.json").write_text(json.dumps(with_own_hash(content)))
    config = Run(run).config
    with monkeypatch.context() as patched:
        patched.setattr(execute.ScoreBook, "write", kill)
        with pytest.raises(Killed):
            run_request(Request(config, redo="b"))
    run_request(Request(config))
    assert not verify(Run(run))


def test_rows_of_skills_and_of_a_joint_run_have_their_models(
    learn: Callable[..., Run], task: Callable[..., Any], tmp_path: Path
) -> None:
    skilled = learn(tmp_path / "skilled", [task("a", learn=False), "b"], method=SEEKR).folder
    joint = learn(tmp_path / "joint", "ab", method="joint", cells="all").folder
    answered = [json.loads((one / "scores.json").read_text())["answered_by"] for one in (skilled, joint)]
    base = Run(skilled).record["model_fingerprint"]
    assert answered[0]["0"] == base != answered[0]["1"]
    assert set(answered[1]) == {"base", "1"}
    assert answered[1]["base"] == base
    for one in (skilled, joint):
        assert not verify(Run(one))
        evaluate(one, "all")


def test_one_changed_number_of_general_tasks_or_of_a_graft_is_found(tmp_path: Path) -> None:
    write_general(tmp_path, [GeneralScore("t", None, "acc", 0.25, None, 8, "1")])
    add_grafted(tmp_path, [Grafted("a", "a", "b", "all", 4, (), 8, 75.0, 25.0, 50.0, None)], ["a", "b"])
    read_general(tmp_path), read_grafted(tmp_path)
    for name, before, after in ((GENERAL_FILE, "0.25", "0.75"), ("graft.json", "50.0", "70.0")):
        path = tmp_path / name
        path.write_text(path.read_text().replace(before, after, 1))
    for read in (read_general, read_grafted):
        with pytest.raises(InputError, match="not what was written; delete it and run"):
            read(tmp_path)


def test_studies_of_another_run_are_found_and_those_of_the_run_before_are_not_of_another(
    learn: Callable[..., Run], data_folder: Path, tmp_path: Path
) -> None:
    runs = [learn(tmp_path / str(seed), "ab", method=SEEKR, seed=seed).folder for seed in (0, 1)]
    for run in runs:
        write_general(run, [GeneralScore("t", None, "acc", 0.25, None, 8, "1")])
        add_grafted(run, [Grafted("a", "a", "b", "all", 4, (), 8, 75.0, 25.0, 50.0, None)], ["a", "b"])
    more = run_request(extend(runs[0], f"c={data_folder / 'c'}", tmp_path / "more")).folder
    assert read_general(more) == read_general(runs[0])
    for name, read in ((GENERAL_FILE, read_general), ("graft.json", read_grafted)):
        (runs[0] / name).write_bytes((runs[1] / name).read_bytes())
        with pytest.raises(InputError, match=rf"{name}: of another run; delete it and run"):
            read(runs[0])
        (runs[0] / name).write_text("null")
        with pytest.raises(InputError, match=rf"{name}: holds nothing"):
            read(runs[0])
    assert len(verify(Run(runs[0]))) == 2
