"""RUN/model is the newest stage's model folder, and nothing that reads a run trips over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import Stop, StopAt
from snapshot import snapshot

import seekr
from seekr import Run
from seekr.cli.main import main
from seekr.runs.folder import finished_stages, point_to_newest_model, remove_stage
from seekr.runs.learn import evaluate

Learn = Callable[..., Run]


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("links are not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)


def test_it_follows_the_stages_as_they_come(learn: Learn, tmp_path: Path) -> None:
    """Also where the run is stopped, where weights are let go of, and where another run goes on."""
    link = tmp_path / "run" / "model"
    with pytest.raises(Stop):
        learn(tmp_path / "run", callbacks=[StopAt(1, 1)], keep_stages="last")
    assert str(link.readlink()) == "stages/00-a/model"
    run = learn(tmp_path / "run", keep_stages="last")
    assert str(link.readlink()) == "stages/01-b/model"
    assert link.resolve() == run.stages[-1].model
    before = snapshot(run.folder)
    task = f"c={Path(run.config.tasks[0]['train']).parent.with_name('c')},max_new_tokens=3"
    assert main(["learn", "--from", str(run.folder), "--task", task, "--output-dir", str(tmp_path / "more")]) == 0
    assert str((tmp_path / "more" / "model").readlink()) == "stages/02-c/model"
    assert snapshot(run.folder) == before
    shutil.copytree(run.folder, tmp_path / "moved", symlinks=True)
    assert (tmp_path / "moved" / "model" / "config.json").samefile(
        finished_stages(tmp_path / "moved")[1] / "model/config.json"
    )


def test_a_run_of_an_earlier_version_gets_it_when_it_is_gone_on_with(
    finished: Run, learn: Learn, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("model"), symlinks=True)
    for stage in finished.stages:
        shutil.copytree(stage.model, tmp_path / "run" / "stages" / stage.folder.name / "model")
    assert not (tmp_path / "run" / "model").exists()
    learn(tmp_path / "run")
    assert str((tmp_path / "run" / "model").readlink()) == "stages/01-b/model"


@pytest.mark.usefixtures("no_links")
def test_where_no_link_can_be_made_a_file_says_where_it_is(
    learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learn(tmp_path / "run")
    assert (run.folder / "model").read_text() == "stages/01-b/model\n"
    assert learn(tmp_path / "run", "abc").folder == run.folder
    assert (run.folder / "model").read_text() == "stages/02-c/model\n"
    assert main(["status", str(run.folder)]) == 0
    evaluate(run.folder, cells="seen")
    assert seekr.compare([tmp_path]).rows[0].runs[0].folder == run.folder


def test_stages_that_are_learned_again_are_not_pointed_at(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder, symlinks=True)
    for name in ("01-b", "00-a"):
        remove_stage(folder / "stages" / name)
        point_to_newest_model(folder)
        assert (folder / "model").is_symlink() == (name == "01-b")
    assert snapshot(folder).keys() & {"model", ".model.partial"} == set()


def test_what_else_has_the_name_is_left_alone(finished: Run, tmp_path: Path) -> None:
    for make in (Path.mkdir, lambda path: path.write_text("mine\n"), lambda path: path.symlink_to("/nowhere")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(finished.folder / "stages", folder / "stages")
        make(folder / "model")
        before = snapshot(folder)
        point_to_newest_model(folder)
        assert snapshot(folder) == before


def test_readers_of_a_folder_do_not_take_it_for_a_run_or_a_stage(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "all" / "run", symlinks=True)
    run = tmp_path / "all" / "run"
    assert [found.folder for found in seekr.compare([tmp_path / "all"]).rows[0].runs] == [run]
    assert [stage.name for stage in Run(run).stages] == ["a", "b"]
    files = [path for path in run.rglob("*") if path.is_file() and path.name == "model.safetensors"]
    assert len(files) == 2  # nothing is counted, hashed or put on the disk twice
