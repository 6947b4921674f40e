"""What lies in the way of a run, or leads out of it, is named before anything is written, trained or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SEEKR
from snapshot import snapshot

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.disk.files import write_json
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.folder import without_newest


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Path:
    """A finished run of two tasks, to be written to."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run", symlinks=True))


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    (path / "theirs").mkdir(parents=True)


def a_file(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")


@pytest.mark.parametrize("place", ["sub", "stages/00-a/model/sub"])
def test_a_run_was_begun_in_the_folder_of_another_one(place: str, run: Path, data_folder: Path) -> None:
    before = snapshot(run)
    with pytest.raises(InputError, match=r"lies in the folder of the run .*; give a folder outside of it"):
        run_request(extend(run, f"c={data_folder / 'c'}", run / place))
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "words",
    [
        "report RUN --output RUN/run.json",
        "report RUN --figures RUN/predictions",
        "compare RUN --csv RUN/scores.json",
        "check RUN --json RUN/general.json",
        "score RUN --task a=nowhere --output RUN/predictions/0-0.jsonl",
    ],
)
def test_what_is_written_for_a_person_took_the_place_of_files_of_the_run(
    words: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`report RUN --output RUN/run.json` left a run that nothing could read any more."""
    monkeypatch.chdir(run.parent)
    before = snapshot(run)
    assert main(words.replace("RUN", run.name).split()) == 2
    assert f"is a part of the run in {run}, which needs it; give another place" in capsys.readouterr().err
    assert snapshot(run) == before


IN_THE_WAY = [
    (a_folder, "predictions/0-0.jsonl", "is a folder, where a file should be"),
    (a_folder, "predictions/.2-0.jsonl.partial", "is a folder, and seekr writes a file"),
    (a_folder, ".run.json.partial", "is a folder, and seekr writes a file"),
    (a_folder, ".scores.json.partial", "is a folder, and seekr writes a file"),
    (a_folder, ".model.partial", "is a folder, and seekr writes a file"),
    (a_file, "working", "is a file, where a run has a folder"),
    (a_file, "working/02-c", "is a file, where a run has a folder"),
    (a_file, "logs", "is a file, where a run has a folder"),
]


@pytest.mark.parametrize(("put", "name", "told"), IN_THE_WAY)
def test_what_lies_in_the_way_is_named_before_run_json_is_written(
    put: Callable[[Path], None], name: str, told: str, run: Path, learn: Callable[..., Run], data_folder: Path
) -> None:
    """Found by review: run.json had the new task by then, and --from said that the run was not finished."""
    put(run / name)
    before = snapshot(run)
    for more in ({"tasks": "abc"}, {"callbacks": ()}):
        with pytest.raises(InputError, match=told) as raised:
            learn(run, method=SEEKR, **more)
        assert str(run / name) in str(raised.value)
    assert snapshot(run) == before
    assert extend(run, f"c={data_folder / 'c'}", run.with_name("next")).source == run


def test_what_cannot_be_taken_over_is_named_before_the_new_run_is_begun(
    run: Path, data_folder: Path, tmp_path: Path
) -> None:
    answers, scores = run / "predictions" / "9-9.jsonl", run / "scores.json"
    request = extend(run, f"c={data_folder / 'c'}", tmp_path / "next")
    answers.symlink_to("0-0.jsonl")
    with pytest.raises(InputError, match="copying would take what it leads to"):
        run_request(request)
    answers.unlink()
    scores.unlink()
    os.mkfifo(scores)
    with pytest.raises(InputError, match=r"scores\.json: is a FIFO"):
        run_request(request)
    assert not (tmp_path / "next").exists()


def test_what_is_noted_of_stages_is_read_before_they_are_removed(run: Path, learn: Callable[..., Run]) -> None:
    config = Run(run).config.model_dump(mode="json")
    write_json(run.parent / "config.json", config)
    for name in ("general.json", "graft.json"):
        a_folder(run / name)
        before = snapshot(run)
        assert main(["learn", str(run.parent / "config.json"), "--redo", "a"]) == 2
        assert snapshot(run) == before
        shutil.rmtree(run / name)


@pytest.mark.parametrize("name", ["stages/00-a", "stages/00-a/model"])
@pytest.mark.parametrize("words", [["--redo", "a"], ["keep_stages=last"]])
def test_a_link_is_refused_before_what_it_leads_to_is_removed(
    name: str, words: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: other stages and their scores were gone by then, or what lies elsewhere."""
    write_json(run.parent / "config.json", Run(run).config.model_dump(mode="json"))
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before, there = snapshot(run), snapshot(tmp_path / "elsewhere")
    command = ["learn", str(run.parent / "config.json"), *words]
    if words[0] == "--redo" and name.endswith("model"):
        assert main(command) == 0  # the link goes, and no more
    else:
        for more in (["--dry-run"], []):
            assert main([*command, *more]) == 2
            said = capsys.readouterr().err
            assert f"{run / name}: is a link" in said
            assert len(said.splitlines()) == 1
        assert snapshot(run) == before
    assert snapshot(tmp_path / "elsewhere") == there
    assert main(["evaluate", str(run)]) == 0


@pytest.mark.parametrize(
    ("keep", "more", "gone"),
    [("all", 9, 0), ("last", 0, 2), ("last", 1, 3), (2, 0, 1), (2, 1, 2), (4, 0, 0), (4, 9, 3)],
)
def test_the_weights_that_will_be_dropped(keep: str | int, more: int, gone: int, tmp_path: Path) -> None:
    stages = [tmp_path / f"0{number}-x" for number in range(4)]
    for stage in stages[1:]:
        (stage / "model").mkdir(parents=True)  # the first is a skill
    assert without_newest(stages, keep, more=more) == stages[1 : 1 + gone]


def test_link_below_the_logs_is_not_followed(run: Path, learn: Callable[..., Run], tmp_path: Path) -> None:
    """Found by review: TensorBoard wrote where it led."""
    (tmp_path / "victim").mkdir()
    (run / "logs").mkdir()
    (run / "logs/run").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="logs/run: is a link"):
        learn(run, "abc", method=SEEKR)
    assert not list((tmp_path / "victim").iterdir())
