"""Runs whose files were damaged, lost or swapped between two starts: named before anything is trained, never used."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earlier_runs import as_of_before_manifests
from small_runs import SEEKR, Stop, StopAt, digests

from seekr import InputError, Run, evaluate
from seekr.cli.main import main
from seekr.runs import execute
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.general_tasks import GeneralScore, write_general
from seekr.runs.grafted import Grafted, add_grafted
from seekr.runs.manifest import MANIFEST
from seekr.runs.prepare import Request
from seekr.runs.verify import verify


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lose(path: Path) -> None:
    path.unlink()


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = [flip_a_bit, cut, lose, replace_by_a_folder, replace_by_a_dangling_link]


@pytest.fixture(scope="module")
def two_tasks(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("two") / "run", "ab", method=SEEKR).folder


@pytest.fixture
def run(two_tasks: Path, tmp_path: Path) -> Path:
    """A copy of a run of two tasks; its place is in no file that counts."""
    return Path(shutil.copytree(two_tasks, tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        "01-b/model/model.safetensors",
        "01-b/model/config.json",
        "00-a/memory/teacher-00000.safetensors",
        "00-a/memory/memory.json",
        "00-a/importance.safetensors",
        "00-a/heads.json",
    ],
)
def test_what_the_next_task_needs_is_used_as_it_was_written_or_not_at_all(
    name: str, damage: Callable[[Path], None], run: Path, learn: Callable[..., Run]
) -> None:
    path = run / "stages" / name
    before = digests(run)
    damage(path)
    with pytest.raises(InputError, match=r"--redo|restore it") as raised:
        learn(run, "abc", method=SEEKR)
    assert str(path) in str(raised.value)
    assert not (run / "stages/02-c").exists()
    assert {name: digest for name, digest in digests(run).items() if digest == before.get(name)}.keys() >= {
        name for name in before if run / name != path
    }


def test_a_run_whose_newest_weights_are_missing_does_not_start_from_older_ones(
    run: Path, learn: Callable[..., Run]
) -> None:
    shutil.rmtree(run / "stages/01-b/model")
    with pytest.raises(InputError, match="01-b/model: missing, and the next task starts from these weights"):
        learn(run, "abc", method=SEEKR)


@pytest.mark.parametrize("name", ["00-a/model/model.safetensors", "01-b/log.jsonl"])
def test_what_no_later_task_needs_is_named_and_the_run_goes_on(
    name: str, run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    cut(run / "stages" / name)
    assert learn(run, "abc", method=SEEKR).finished
    assert f"stages/{name}: it has" in capsys.readouterr().err


@pytest.mark.parametrize("odd", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_place_of_older_weights_is_no_keep_stages(
    odd: Callable[[Path], None], run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "stages/00-a/model")
    assert verify(Run(run)) == []
    odd(run / "stages/00-a/model")
    assert [finding.text.split(":")[0] for finding in verify(Run(run))] == [str(run / "stages/00-a/model")]
    assert learn(run, "abc", method=SEEKR).finished
    assert "00-a/model: no folder, where weights lie" in capsys.readouterr().err


def test_what_is_damaged_of_a_run_with_nothing_left_to_learn_is_named(
    run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """It was looked at before a task was trained, and no more once there was none."""
    flip_a_bit(run / "stages/01-b/memory/samples.safetensors")
    learn(run, "ab", method=SEEKR)
    assert "01-b/memory/samples.safetensors: its checksum differs" in capsys.readouterr().err


def test_scores_are_not_filled_in_by_the_record_of_another_run(
    run: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    """All answers were there, so that no weights were needed, and nothing was held against run.json."""
    other = learn(tmp_path / "other", "a", method=SEEKR, seed=1).folder
    record = json.loads((other / "run.json").read_text())
    tasks = json.loads((run / "run.json").read_text())["config"]["tasks"]
    record["config"]["tasks"] = tasks
    (run / "run.json").write_text(json.dumps({key: record[key] for key in record if key not in ("sha256", "stages")}))
    with pytest.raises(InputError, match=r"not learned after the beginning in run\.json as it is here"):
        evaluate(run)


@pytest.mark.parametrize("odd", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["working", "working/02-c", "working/02-c/checkpoint-1", "predictions", "stages"])
def test_what_stands_in_place_of_a_folder_of_a_run_is_named(
    name: str, odd: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` said of a stopped task that it waits."""
    place = run / name
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    odd(place)
    main(["status", str(run)])
    assert f"seekr: {place}: no folder, where a run has one" in capsys.readouterr().err


def test_redone_stages_are_those_of_a_run_that_was_never_damaged(
    run: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    whole = learn(Path(shutil.copytree(run, tmp_path / "whole")), "abc", method=SEEKR)
    flip_a_bit(run / "stages/01-b/model/model.safetensors")
    config = whole.config.model_dump(mode="json") | {"output_dir": str(run)}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config))
    assert main(["learn", str(path)]) == 2
    assert main(["learn", str(path), "--redo", "x"]) == 2
    assert main(["learn", str(path), "--redo", "b"]) == 0
    assert digests(run) == digests(whole.folder)
    scores, expected = Run(run).scores.matrix, whole.scores.matrix
    assert [scores[0][0], scores[1][1], scores[2]] == [expected[0][0], expected[1][1], expected[2]]
    assert verify(Run(run)) == []


def test_scores_of_redone_stages_are_gone_with_them(run: Path, learn: Callable[..., Run], tmp_path: Path) -> None:
    config = Run(run).config
    request = Request(config, redo="b", callbacks=[StopAt(0, 1)])
    with pytest.raises(Stop):
        run_request(request)
    scores = Run(run).scores
    assert scores.matrix[0][0] is not None
    assert scores.matrix[1] == [None, None]


def test_notes_in_the_readme_of_a_model_are_no_damage(run: Path, learn: Callable[..., Run], tmp_path: Path) -> None:
    made = learn(tmp_path / "lora", "a", lora={"r": 2, "target_modules": ["q_proj"]}, method="sequential")
    with (made.folder / "stages/00-a/model/README.md").open("a") as file:
        file.write("mine")
    assert verify(made) == []


def test_stages_that_were_swapped_renamed_or_are_of_another_run_are_found(
    run: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    other = learn(tmp_path / "other", "ab", method=SEEKR, seed=1).folder
    shutil.rmtree(run / "stages/01-b")
    shutil.copytree(other / "stages/01-b", run / "stages/01-b")
    with pytest.raises(InputError, match="not learned after 00-a as it is here"):
        learn(run, "abc", method=SEEKR)
    shutil.copytree(run / "stages/00-a", run / "stages/00-b")
    assert any("have one number" in finding.text for finding in verify(Run(run)))
    shutil.rmtree(run / "stages/01-b")
    (run / "stages/00-b").rename(run / "stages/01-b")
    assert any("this is stage 00-a, under another name" in finding.text for finding in verify(Run(run)))


def test_a_manifest_that_was_changed_is_found(run: Path, learn: Callable[..., Run]) -> None:
    path = run / "stages/00-a" / MANIFEST
    path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1', 1))
    with pytest.raises(InputError, match=r"manifest.json: damaged"):
        learn(run, "abc", method=SEEKR)


def test_stages_of_a_version_without_manifests_are_called_unverified_and_gone_on_with(
    run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    as_of_before_manifests(run)
    assert learn(run, "abc", method=SEEKR).finished
    said = capsys.readouterr().err
    assert said.count("00-a, 01-b: of a version that kept no hashes of files; unverified") == 1
    assert [finding.fault for finding in verify(Run(run))] == [False, False]


def test_a_file_that_a_loader_would_read_is_not_added_to_a_stage(run: Path, learn: Callable[..., Run]) -> None:
    (run / "stages/01-b/model/adapter_config.json").write_text("{}")
    (run / "stages/01-b/model/notes").write_text("mine")
    with pytest.raises(InputError, match=r"adapter_config.json: not a file of this stage"):
        learn(run, "abc", method=SEEKR)


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(
    learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = learn(tmp_path / "whole", "ab", method=SEEKR)
    for place, name in enumerate(("optimizer.pt", "trainer_state.json", "model.safetensors")):
        stopped = tmp_path / f"stopped{place}"
        with pytest.raises(Stop):
            learn(stopped, "ab", method=SEEKR, callbacks=[StopAt(1, 5)])
        newest = max(stopped.glob("working/01-b/checkpoint-*"), key=lambda path: int(path.name[11:]))
        flip_a_bit(newest / name)
        assert any(f"{newest.name}/{name}" in finding.text for finding in verify(Run(stopped)))
        assert learn(stopped, "ab", method=SEEKR).finished
        assert f"{newest / name}: its checksum differs" in capsys.readouterr().err
        assert digests(stopped) == digests(whole.folder)


def test_scores_whose_answers_and_weights_are_gone_stay(
    run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Run(run).scores
    (run / "predictions/0-0.jsonl").unlink()
    shutil.rmtree(run / "stages/00-a/model")
    after = learn(run, "abc", method=SEEKR).scores
    assert after.matrix[0][0] == before.matrix[0][0] is not None
    assert "0-0 (row-column): the answers that were scored are gone" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0
    assert Run(run).scores.matrix[0][0] == before.matrix[0][0]


def test_answers_that_were_changed_are_named_and_measured_again_where_the_weights_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = run / "predictions/1-0.jsonl", Run(run).scores.matrix
    text = path.read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    right = [row | {"prediction": row["references"][0]} for row in rows]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in right))
    assert main(["verify", str(run)]) == 3
    said = capsys.readouterr().out
    assert "1-0.jsonl: not the answers that were scored" in said
    assert f"{run.name}: 1 fault\n" in said
    assert main(["evaluate", str(run)]) == 0
    assert "1-0.jsonl: not the answers that were scored" in capsys.readouterr().err
    assert path.read_text() == text
    assert Run(run).scores.matrix == before
    assert main(["verify", str(run)]) == 0


def test_scores_that_were_changed_by_hand_are_mended_from_their_answers(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "scores.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | {"overall_performance": 99.0, "matrix": [[50.0, None], [1.0, 2.0]]}))
    assert main(["verify", str(run), "--json", str(run.parent / "found.json")]) == 3
    assert json.loads((run.parent / "found.json").read_text())["faults"] >= 2
    assert main(["evaluate", str(run)]) == 0
    assert "it is mended" in capsys.readouterr().err
    assert json.loads(path.read_text()) == before
    path.write_text("{")
    assert main(["verify", str(run)]) == 3
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(path.read_text()) == before
    assert (run / "scores.json.damaged").read_text() == "{"


def test_without_verifying_sizes_are_looked_at_and_hashes_of_large_files_are_not(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seekr.disk.files.SMALL", 100)
    path = run / "stages/01-b/model/model.safetensors"
    flip_a_bit(path)
    config = run.parent / "c.json"
    record = json.loads((run / "run.json").read_text())["config"]
    tasks = [*record["tasks"], record["tasks"][0] | {"name": "again"}]
    config.write_text(json.dumps(record | {"output_dir": str(run), "tasks": tasks}))
    assert main(["learn", str(config), "--no-verify"]) == 0
    cut(path)
    config.write_text(json.dumps(record | {"output_dir": str(run), "tasks": [*tasks, tasks[0] | {"name": "more"}]}))
    assert main(["learn", str(config), "--no-verify", "--redo", "again"]) == 2


def test_links_in_a_run_are_not_followed(
    run: Path, learn: Callable[..., Run], data_folder: Path, tmp_path: Path
) -> None:
    """A lock or a half written file in a folder of somebody else: writing it would empty what it leads to."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (run / ".scores.json.partial").symlink_to(mine)
    (run / ".run.json.partial").symlink_to(mine)
    assert learn(run, "abc", method=SEEKR).finished
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(mine)
    assert main(["evaluate", str(run)]) == 2
    (run / ".lock").unlink()
    (run / "predictions/9-9.jsonl").symlink_to(mine)
    (run / "stages/00-a/memory/more").symlink_to(mine)
    for link in ("stages/00-a/memory/more", "predictions/9-9.jsonl"):
        with pytest.raises(InputError, match="is a link, and copying would take what it leads to"):
            run_request(extend(run, f"d={data_folder / 'c'}", tmp_path / "next"))
        (run / link).unlink()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["predictions", "working/02-c/log.jsonl"])
def test_nothing_is_written_where_a_link_in_a_received_folder_leads(
    name: str, run: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    """Found by review: a linked log was emptied, and answers went into a linked folder."""
    other = tmp_path / "other"
    if name == "predictions":
        (run / name).rename(other)
    else:
        other.write_text("mine")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(other)
    before = sorted(other.iterdir()) if other.is_dir() else other.read_text()
    with pytest.raises(InputError, match="is a link, and seekr would write where it leads"):
        learn(run, "abc", method=SEEKR)
    assert main(["evaluate", str(run), "--cells", "all"]) == 2
    assert before == (sorted(other.iterdir()) if other.is_dir() else other.read_text())


@pytest.mark.parametrize("copied", [0, 1])
def test_a_run_that_was_killed_while_it_took_over_stages_takes_them_over(
    copied: int, run: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by kills: of a part of the stages the newest had no weights, and the run could not be gone on with."""
    request = extend(run, f"c={data_folder / 'c'},max_new_tokens=3", tmp_path / "next")
    copy, done = execute.copy_stage, 0

    def stop(*args: Any, **options: Any) -> None:
        nonlocal done
        if done == copied:
            raise Stop
        done += 1
        copy(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(execute, "copy_stage", stop)
        with pytest.raises(Stop):
            run_request(request)
    whole = run_request(extend(run, f"c={data_folder / 'c'},max_new_tokens=3", tmp_path / "whole"))
    assert digests(run_request(request).folder) == digests(whole.folder)
    assert {path.name for path in (tmp_path / "next").iterdir()} == {path.name for path in whole.folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["run.json", "scores.json", "stages/00-a/manifest.json", "stages/00-a/memory/memory.json"]
)
@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "1" * 5000, "[]", "null"])
def test_json_of_a_run_that_is_none_ends_in_a_line(
    name: str, text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(text, encoding="latin-1")
    for command in ("status", "memory", "verify"):
        assert main([command, str(run)]) in (0, 2, 3)
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        assert max(map(len, said.err.splitlines()), default=0) < 700


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("stages/00-a/heads.json", "heads"),
        ("stages/01-b/log.jsonl", "status"),
        ("stages/01-b/importance.safetensors", "heads"),
        ("stages/00-a/memory/samples.safetensors", "memory"),
        ("stages/00-a/stage.json", "check"),
        ("stages/00-a/memory/teacher-00000.safetensors", "compare"),
    ],
)
def test_what_is_shown_of_a_damaged_run_names_what_is_damaged(
    name: str, command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_bit(run / name)
    main([command, str(run)])
    assert f"seekr: {run / name}: its checksum differs" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["check", "report"])
def test_answers_that_are_not_those_that_were_scored_are_named_where_they_are_shown(
    command: str, damage: Callable[[Path], None], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages and tables went without answers that were gone, and nothing said so."""
    damage(run / "predictions/1-0.jsonl")
    main([command, str(run), *(["--output", str(tmp_path / "page.html")] if command == "report" else [])])
    assert f"seekr: {run / 'predictions/1-0.jsonl'}: " in capsys.readouterr().err


@pytest.mark.parametrize("damage", [cut, replace_by_a_folder, replace_by_a_dangling_link])
@pytest.mark.parametrize("name", ["general.json", "graft.json"])
def test_a_study_that_cannot_be_read_is_a_fault_and_not_one_that_was_not_made(
    name: str, damage: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link to nowhere was no study, and verify looked at none."""
    write_general(run, [GeneralScore("t", None, "acc", 0.5, None, 2, "1")])
    add_grafted(run, [Grafted("a", "a", "b", "all", 8, (), 3, 50.0, 40.0, 45.0, None)], ["a", "b"])
    assert verify(Run(run)) == []
    (run / name).write_text((run / name).read_text().rstrip())
    damage(run / name)
    (found,) = verify(Run(run))
    assert found.text.startswith(f"{run / name}: ")
    main(["memory", str(run)])
    assert f"seekr: {run / name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["general.json", "scores.json"])
def test_what_is_measured_is_not_taken_over_from_where_a_link_leads(
    name: str, run: Path, data_folder: Path, tmp_path: Path
) -> None:
    """A link to nowhere was nothing to be taken over."""
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=rf"{name}: is a link, and copying would take what it leads to"):
        run_request(extend(run, f"c={data_folder / 'c'}", tmp_path / "next"))
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("damage", [lose, replace_by_a_dangling_link])
def test_a_model_that_is_exported_without_scores_that_are_gone_says_so(
    damage: Callable[[Path], None], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "scores.json")
    assert main(["export", str(run), "--output", str(tmp_path / "exported")]) == 0
    assert "scores.json: missing, though answers are there" in capsys.readouterr().err


def test_weights_that_cannot_be_exported_are_named_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Run(run).stages[-1].folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert main(["export", str(run), "--output", str(tmp_path / "exported")]) == 2
    assert capsys.readouterr().err.count(str(weights)) == 1


@pytest.mark.parametrize("words", [["heads"], ["memory", "--search", "a"]])
def test_what_does_not_need_the_record_is_not_shown_without_it(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is shown is held against run.json: nothing was said where it could not be read."""
    (run / "run.json").write_text("{")
    assert main([*words, str(run)]) == 2
    assert f"seekr: error: {run / 'run.json'}, line 1: broken" in capsys.readouterr().err


def test_scores_that_are_gone_and_a_record_that_is_gone_are_named(
    run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "scores.json").unlink()
    assert main(["status", str(run)]) == 0
    assert "scores.json: missing, though answers are there; `seekr evaluate" in capsys.readouterr().err
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"run\.json: missing, though stages are there"):
        learn(run, "abc", method=SEEKR)


def test_a_stage_whose_description_was_changed_is_not_called_another_run(run: Path, learn: Callable[..., Run]) -> None:
    path = run / "stages/00-a/stage.json"
    path.write_text(path.read_text().replace('"max_new_tokens": 3', '"max_new_tokens": 4'))
    with pytest.raises(InputError, match=r"stage\.json: its checksum differs"):
        learn(run, "abc", method=SEEKR)


def test_a_torn_task_json_is_named_before_its_checkpoints_are_deleted(
    learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", "ab", method=SEEKR, callbacks=[StopAt(1, 5)])
    cut(tmp_path / "run/working/01-b/task.json")
    cut(tmp_path / "run/working/01-b/task.json")
    assert learn(tmp_path / "run", "ab", method=SEEKR).finished
    assert "working/01-b/task.json is missing or damaged; it is deleted" in capsys.readouterr().err


def test_weights_whose_manifest_is_damaged_do_not_answer(run: Path) -> None:
    """Nothing said then what they should be, and they were used."""
    flip_a_bit(run / "stages/01-b" / MANIFEST)
    (run / "predictions/1-1.jsonl").unlink()
    (run / "scores.json").unlink()
    assert main(["evaluate", str(run)]) == 2


@pytest.mark.parametrize("claimed", [10**6, 10**8 - 1, 1 << 40, (1 << 64) - 1])
def test_a_header_that_claims_more_than_the_file_has_ends_in_a_line(
    claimed: int,
    two_tasks: Path,
    tmp_path: Path,
    tiny_model_folder: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As data of somebody else's: no manifest says that the file is another one."""
    run = Path(shutil.copytree(two_tasks, tmp_path / "run"))
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    as_of_before_manifests(run)
    stage = run / "stages/01-b"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": str(model), "tasks": [{"name": "a", "train": str(data_folder / "a")}]}))
    for file, command in (
        (stage / "memory/samples.safetensors", ["memory", str(run)]),
        (stage / "memory/teacher-00000.safetensors", ["memory", str(run)]),
        (stage / "importance.safetensors", ["heads", str(run)]),
        (model / "model.safetensors", ["learn", str(config), f"output_dir={tmp_path / 'new'}"]),
    ):
        whole = file.read_bytes()
        file.write_bytes(claimed.to_bytes(8, "little") + whole[8:])
        assert main(command) in ((0,) if command[0] == "heads" else (1, 2)), command  # which shows the other stage
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert str(file) in said or str(model) in said, said
        file.write_bytes(whole)


@pytest.mark.parametrize("text", ['{"0": []}', '{"0": [9]}', '{"7": [0]}', '{"0": [-1]}'])
def test_heads_that_the_model_does_not_have_are_named(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found by fuzzing, in a run without manifests."""
    as_of_before_manifests(run)
    (run / "stages/00-a/heads.json").write_text(text)
    assert main(["heads", str(run)]) == 0
    assert "not shown: " in (said := capsys.readouterr().err)
    assert "heads.json" in said


@pytest.mark.parametrize("gone", [["00-a"], ["01-b"], ["00-a", "01-b"]])
def test_manifests_that_were_deleted_are_missing_and_no_earlier_version(
    gone: list[str], run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in gone:
        (run / "stages" / name / "manifest.json").unlink()
    assert main(["verify", str(run)]) == 3
    said = " ".join(capsys.readouterr().out.split())
    for name in gone:
        assert f"{name}/manifest.json: missing" in said
    assert "of a version that kept no hashes" not in said
    with pytest.raises(InputError, match=rf"{gone[0]}/manifest\.json: missing.*; bring it back .* --redo"):
        learn(run, "abc")
    assert main(["status", str(run)]) == 0
    assert "manifest.json: missing" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lose, lambda path: path.write_text(""), replace_by_a_dangling_link])
@pytest.mark.parametrize("name", ["heads.json", "importance.safetensors", "log.jsonl"])
def test_of_a_stage_without_a_manifest_what_comes_together_is_missed(
    name: str, damage: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables and pages were without it, as of a method that chooses no heads, and a task that was not trained."""
    as_of_before_manifests(run)
    path = run / "stages/01-b" / name
    damage(path)
    assert main(["status", str(run)]) in (0, 2)
    assert f"{path}: missing or empty, though " in capsys.readouterr().err
    assert main(["verify", str(run)]) == 3


@pytest.mark.parametrize("damage", [replace_by_a_folder, replace_by_a_dangling_link])
@pytest.mark.parametrize("name", ["model/generation_config.json", "model/tokenizer_config.json"])
def test_what_is_no_file_in_a_model_without_a_manifest_is_named(
    name: str, damage: Callable[[Path], None], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was exported without, as a model that has no such file."""
    as_of_before_manifests(run)
    damage(run / "stages/01-b" / name)
    main(["export", str(run), "--output", str(tmp_path / "exported")])
    assert f"{run / 'stages/01-b' / name}: is no file" in capsys.readouterr().err


def test_run_of_before_manifests_stays_unverified_and_its_new_stages_are_held(
    run: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    as_of_before_manifests(run)
    learn(run, "abc", method=SEEKR)
    assert json.loads((run / "run.json").read_text())["unverified"] == ["00-a", "01-b"]
    assert [finding.fault for finding in verify(Run(run))] == [False, False]
    (run / "stages/02-c/manifest.json").unlink()
    assert [finding.fault for finding in verify(Run(run))] == [True, False, False]
    learn(run, "abc", method=SEEKR)  # nothing is left to learn, and nothing is forgotten of what is unverified
    assert json.loads((run / "run.json").read_text())["unverified"] == ["00-a", "01-b"]


@pytest.mark.parametrize("command", ["status", "verify", "heads"])
def test_a_stage_whose_name_no_folder_can_have_is_told_of_run_json(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was "OSError: File name too long", and no name."""
    record = json.loads((run / "run.json").read_text()) | {"stages": ["00-" + "a" * 300]}
    del record["sha256"]
    (run / "run.json").write_text(json.dumps(record))
    assert main([command, str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run.json: not the record of a run; stages.0: " in line


@pytest.mark.parametrize(
    ("path", "value"),
    [(["config", "training", "learning_rate"], 0.5), (["config", "tasks", 1, "max_new_tokens"], 4), (["from"], "x")],
)
def test_record_that_was_changed_is_named_and_not_gone_by(
    path: list[Any], value: object, run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "run.json"
    written = file.read_text()
    place = record = json.loads(written)
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    file.write_text(json.dumps(record, indent=2))
    said = r"run\.json: not what was written"
    assert main(["verify", str(run)]) == 3
    assert re.search(said, " ".join(capsys.readouterr().out.split()))
    assert main(["status", str(run)]) == 0
    assert re.search(said, capsys.readouterr().err)
    with pytest.raises(InputError, match=said):
        learn(run, "abc", method=SEEKR)
    with pytest.raises(InputError, match=said):
        evaluate(run)
    assert json.loads(file.read_text()) == record
    file.write_text(json.dumps({key: kept for key, kept in record.items() if key != "sha256"}))
    assert main(["verify", str(run)]) == 0
    file.write_text(written)
    assert learn(run, "abc", method=SEEKR).finished
