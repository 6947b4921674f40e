"""Stages that were lost, or are of another run: run.json knows which were finished, the chain whose they are."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earlier_runs import as_of_before_manifests
from small_runs import SEEKR, Stop, digests

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.disk.files import with_own_hash
from seekr.runs import execute, stage
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.prepare import Request
from seekr.runs.verify import verify


@pytest.fixture(scope="module")
def two_tasks(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("two") / "run", "ab", method=SEEKR).folder


@pytest.fixture
def run(two_tasks: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_tasks, tmp_path / "run", symlinks=True))


def named(run: Path) -> Any:
    return json.loads((run / "run.json").read_text()).get("stages")


def configuration(run: Path) -> str:
    path = run.parent / "config.json"
    path.write_text(json.dumps(Run(run).config.model_dump(mode="json") | {"output_dir": str(run)}))
    return str(path)


def empty(stages: Path) -> None:
    shutil.rmtree(stages)
    stages.mkdir()


def lead_to_itself(stages: Path) -> None:
    shutil.rmtree(stages)
    stages.symlink_to("stages")


def be_a_file(stages: Path) -> None:
    shutil.rmtree(stages)
    stages.touch()


@pytest.mark.parametrize(
    "lose",
    [lambda stages: shutil.rmtree(stages / "01-b"), shutil.rmtree, empty, lead_to_itself, be_a_file],
)
def test_stages_that_were_lost_are_a_fault_and_are_not_learned_again_without_a_word(
    lose: Callable[[Path], None], run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: the run had one task less, or none, and was called whole."""
    config = configuration(run)
    lose(run / "stages")
    before = digests(run, "**/*")
    capsys.readouterr()
    for command in (["status"], ["check"], ["report", "--output", str(run.parent / "page.html")]):
        assert main([command[0], str(run), *command[1:]]) == 0
        assert "stages/01-b: missing, and run.json says that it was finished" in capsys.readouterr().err
    assert main(["verify", str(run)]) == 3
    assert "01-b: missing, and run.json says" in " ".join(capsys.readouterr().out.split())
    for words in (["learn", config], ["learn", config, "--dry-run"], ["evaluate", str(run)]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert re.search(r"stages(: is a link, |: is a file, where a run has a folder|/.* by --redo [ab]\n)", said), (
            said
        )
        assert said.count("seekr: error: ") == 1
    assert digests(run, "**/*") == before


@pytest.mark.parametrize("lose", [lambda stages: shutil.rmtree(stages / "01-b"), empty])
def test_a_command_that_refuses_lost_stages_is_not_what_is_advised(
    lose: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six commands said that the run's `seekr learn` goes on."""
    begins = lose is not empty
    lose(run / "stages")
    capsys.readouterr()
    more = ["learn", "--from", str(run), "--task", f"c={run}"]
    refused = [["chat", str(run)], ["export", str(run), "--output", str(run.parent / "out")], more]
    for words in [*refused, *([] if begins else [["heads", str(run)], ["memory", str(run)]])]:
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.search(
            "bring it back from a copy, or learn from there on again by --redo [ab](, or say --stage a)?$", said
        )
    assert main(["status", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"or learn from there on again by --redo [ab]$", said)


@pytest.mark.parametrize("lost", [["b"], ["a", "b"]])
def test_a_lost_stage_that_is_learned_again_is_that_of_a_run_that_lost_none(
    lost: list[str], run: Path, two_tasks: Path, learn: Callable[..., Run]
) -> None:
    whole = digests(run), Run(run).scores.matrix
    for name in lost:
        shutil.rmtree(next((run / "stages").glob(f"*-{name}")))
    answers = run / "predictions/1-1.jsonl"
    answers.write_text(answers.read_text().replace('"prediction": "', '"prediction": "of the lost model '))
    if len(lost) == 2:
        with pytest.raises(InputError, match=r"00-a: missing, and run\.json says"):
            run_request(Request(Run(run).config, redo="b"))
    run_request(Request(Run(run).config, redo=lost[0]))
    assert (digests(run), Run(run).scores.matrix) == whole
    assert answers.read_bytes() == (two_tasks / "predictions/1-1.jsonl").read_bytes()
    assert named(run) == ["00-a", "01-b"]
    assert verify(Run(run)) == []


def stop(*_: Any, **__: Any) -> None:
    raise Stop


@pytest.mark.parametrize("finished", [0, 1])
def test_a_run_that_was_killed_before_run_json_names_its_new_stage_goes_on(
    finished: int, run: Path, learn: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, name_stages, calls = run.parent / "killed", stage.name_stages, []

    def kill(folder: Path, stages: list[Path]) -> None:
        calls.append(folder)
        name_stages(folder, stages) if len(calls) <= finished else stop()

    with monkeypatch.context() as patch:
        patch.setattr(stage, "name_stages", kill)
        with pytest.raises(Stop):
            learn(killed, "ab", method=SEEKR)
    assert (named(killed), len(Run(killed).stages)) == (["00-a", "01-b"][:finished], finished + 1)
    assert verify(Run(killed)) == []
    learn(killed, "ab", method=SEEKR)
    assert (named(killed), digests(killed)) == (["00-a", "01-b"], digests(run))
    assert verify(Run(killed)) == []


@pytest.mark.parametrize("removed", [0, 1])
def test_redo_that_was_killed_names_no_stage_that_is_gone(
    removed: int, run: Path, learn: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, remove, calls = digests(run), execute.remove_stage, []

    def kill(folder: Path) -> None:
        calls.append(folder)
        remove(folder) if len(calls) <= removed else stop()

    with monkeypatch.context() as patch:
        patch.setattr(execute, "remove_stage", kill)
        with pytest.raises(Stop):
            run_request(Request(Run(run).config, redo="a"))
    assert named(run) == []
    assert not [finding for finding in verify(Run(run)) if "01-b: missing" in finding.text]
    run_request(Request(Run(run).config, redo="a"))
    assert (named(run), digests(run)) == (["00-a", "01-b"], whole)


def test_from_begins_with_the_stages_that_it_took_over(
    run: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(name: str) -> Request:
        return extend(run, f"c={data_folder / 'c'},max_new_tokens=3", run.parent / name)

    whole = run_request(request("whole"))
    assert named(whole.folder) == ["00-a", "01-b", "02-c"]
    with monkeypatch.context() as patch:
        patch.setattr(execute, "name_stages", stop)
        with pytest.raises(Stop):
            run_request(request("killed"))
    killed = run.parent / "killed"
    assert named(killed) == []
    assert verify(Run(killed)) == []
    assert digests(run_request(request("killed")).folder) == digests(whole.folder)
    assert named(killed) == named(whole.folder)
    shutil.rmtree(killed / "stages")
    with pytest.raises(InputError, match=r"killed/stages/00-a: missing, and run\.json says"):
        run_request(request("killed"))


def test_a_run_of_an_earlier_version_does_not_say_which_stages_stand(run: Path, learn: Callable[..., Run]) -> None:
    as_of_before_manifests(run)
    whole = digests(run)
    shutil.rmtree(run / "stages/01-b")
    assert [finding.fault for finding in verify(Run(run)) if "01-b" in finding.text] == []
    assert digests(learn(run, "ab", method=SEEKR).folder) == whole
    assert named(run) == ["00-a", "01-b"]


@pytest.mark.parametrize("value", [["../../x"], ["00-a/../../x"], [1], {}, "00-a", [None]])
def test_names_of_stages_that_are_none_end_in_a_line(value: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text()) | {"stages": value}
    (run / "run.json").write_text(json.dumps(with_own_hash(record)))
    assert main(["status", str(run)]) == 2
    assert "run.json: not the record of a run; stages" in capsys.readouterr().err


@pytest.fixture(scope="module")
def other_run(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("other") / "run", "ab", method=SEEKR, seed=1).folder


COMMANDS = {
    "evaluate": ["evaluate", "RUN", "--cells", "all"],
    "evaluate without hashes": ["evaluate", "RUN", "--cells", "all", "--no-verify"],
    "graft": ["graft", "RUN"],
    "score": ["score", "RUN", "--task", "t=DATA"],
    "export": ["export", "RUN", "--output", "OUT"],
    "chat": ["chat", "RUN"],
    "from": ["learn", "--from", "RUN", "--task", "c=DATA", "--output-dir", "OUT"],
}


@pytest.mark.parametrize("swapped", ["00-a", "01-b"])
@pytest.mark.parametrize("name", COMMANDS)
def test_weights_of_another_run_are_not_used(
    name: str,
    swapped: str,
    run: Path,
    other_run: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by review: their hashes are those of their own stage, and they answered, were scored and exported."""
    shutil.rmtree(run / "stages" / swapped)
    shutil.copytree(other_run / "stages" / swapped, run / "stages" / swapped)
    for answers in run.glob("predictions/*-1.jsonl"):
        answers.unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("a 1=\n"))
    pattern, out = f"predictions/[{int(swapped[:2])}-1]-*", run.parent / "out"
    before = digests(run, pattern)
    given = {"RUN": str(run), "OUT": str(out), "t=DATA": f"t={data_folder / 'c'}", "c=DATA": f"c={data_folder / 'c'}"}
    assert main([given.get(word, word) for word in COMMANDS[name]]) == 2
    said = capsys.readouterr().err
    assert said.count("seekr: error: ") == 1
    assert f"stages/{swapped}: not learned after " in said
    assert not out.exists()
    assert digests(run, pattern) == before


@pytest.mark.parametrize("name", ["score", "export", "chat"])
def test_where_the_newest_weights_are_gone_no_earlier_model_takes_their_place(
    name: str, run: Path, data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by review: nothing named them, and the model of the task before was exported."""
    shutil.rmtree(run / "stages/01-b/model")
    monkeypatch.setattr("sys.stdin", io.StringIO("a 1=\n"))
    given = {"RUN": str(run), "OUT": str(run.parent / "out"), "t=DATA": f"t={data_folder / 'c'}"}
    assert main([given.get(word, word) for word in COMMANDS[name]]) == 2
    assert "stages/01-b: its weights are missing; bring them back" in capsys.readouterr().err
    assert any("01-b/model: missing" in finding.text for finding in verify(Run(run)))
    main(["status", str(run)])
    assert "stages/01-b/model: missing" in capsys.readouterr().err
