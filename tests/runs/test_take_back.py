"""Kept rows taken back: gone from every file of the run, the chain whole again, later tasks learned without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SEEKR, Stop, StopAt, digests
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from seekr import Run, Task
from seekr.cli.main import main
from seekr.data.finished import finished_tasks
from seekr.disk.files import with_own_hash
from seekr.errors import InputError
from seekr.memory.reader import KeptSample, Memory
from seekr.memory.removal import write_without
from seekr.runs import folder as folders
from seekr.runs import take_back as taking
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.folder import finished_stages
from seekr.runs.take_back import _holds, _plain
from seekr.runs.verify import verify


@pytest.fixture(scope="module")
def two_tasks(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = SEEKR | {"replay_ratio": 0.5}
    return learn(tmp_path_factory.mktemp("two") / "run", "ab", method=method).folder


@pytest.fixture
def run(two_tasks: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_tasks, tmp_path / "run"))


def memory_of(run: Path, stage: str) -> Memory:
    return Memory.open(run / "stages" / stage / "memory")


@pytest.mark.parametrize("gone", [[0], [6], [1, 3, 4], list(range(7)), []])
def test_what_is_left_of_a_memory_is_what_it_was(gone: list[int], run: Path, tmp_path: Path) -> None:
    before = memory_of(run, "00-a")
    assert len(before) == 7
    write_without(before, gone, tmp_path / "left")
    after = Memory.open(tmp_path / "left")
    kept = [sample for sample in range(7) if sample not in gone]
    assert len(after) == len(kept)
    assert after.about["facts"] == before.about["facts"]
    for new, old in enumerate(kept):
        assert after.encoded(new).input_ids.tolist() == before.encoded(old).input_ids.tolist()
        assert after.encoded(new).labels.tolist() == before.encoded(old).labels.tolist()
        one, two = (memory.tensors(at, logits=True, attention=True) for memory, at in ((before, old), (after, new)))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert after.about["forms"][new] == before.about["forms"][old]


def test_rows_are_found_by_their_text_and_taken_back_with_all_that_quotes_them(
    run: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    row = taking.kept_rows(Run(run))[2]
    text = row.text[: len(row.text) // 2 + 2]
    found = taking.matching(Run(run), text)
    assert row in found
    assert main(["memory", str(run), "--search", text]) == 0
    assert f"{row.task}/{row.number}: " in capsys.readouterr().out
    scores = Run(run).scores.matrix
    answers = taking.answers_with(Run(run), text)
    assert main(["memory", str(run), "--remove-matching", text.upper()]) == 0
    said = capsys.readouterr().out
    assert f"removed: {len(found)} kept rows with what was kept of them, {sum(answers.values())} answers" in said
    assert taking.matching(Run(run), text) == []
    assert taking.answers_with(Run(run), text) == {}
    assert main(["memory", str(run), "--search", text]) == 0
    assert f"no kept row and no answer holds {text!r}" in capsys.readouterr().out  # nothing at all was said
    assert [finding for finding in verify(Run(run)) if finding.fault] == []
    manifest = json.loads((run / "stages" / "00-a" / "manifest.json").read_text())
    assert len(manifest["removed"]) == 1
    assert text not in json.dumps(manifest)
    assert Run(run).scores.matrix == scores
    after = learn(run, "abc", method=SEEKR | {"replay_ratio": 0.5})
    assert after.finished
    assert len(memory_of(run, "00-a")) == 7 - sum(one.task == "a" for one in found)


def test_one_row_is_removed_by_its_name_and_a_wrong_name_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/7", "a", "x/0", "a/-1", "/", "a/" + "9" * 5000):
        assert main(["memory", str(run), "--remove", name]) == 2
        if name in ("a/7", "a"):  # of a task alone it said that '' keeps no rows
            assert f"--remove {name}: TASK/N is meant, and a keeps " in capsys.readouterr().err
    before = memory_of(run, "01-b").encoded(3).input_ids.tolist()
    assert main(["memory", str(run), "--remove", "b/2"]) == 0
    assert memory_of(run, "01-b").encoded(2).input_ids.tolist() == before
    assert verify(Run(run)) == []
    assert main(["memory", str(run), "--search", " "]) == 2
    assert main(["memory", str(run), "--search", "a", "--remove", "b/2"]) == 2
    capsys.readouterr()


def test_a_task_of_which_all_is_taken_back_is_still_gone_on_from(run: Path, learn: Callable[..., Run]) -> None:
    rows = [row for row in taking.kept_rows(Run(run)) if row.task == "a"]
    taking.take_back(Run(run), rows, None, lambda _: None)
    assert len(memory_of(run, "00-a")) == 0
    assert learn(run, "abc", method=SEEKR | {"replay_ratio": 0.5}).finished


def test_a_task_that_was_stopped_after_it_replayed_a_removed_row_begins_again(
    run: Path, two_tasks: Path, learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It went on from its checkpoint, whose weights had learned of the row."""
    method = SEEKR | {"replay_ratio": 0.5}
    never_stopped = Path(shutil.copytree(two_tasks, tmp_path / "never"))
    with pytest.raises(Stop):
        learn(run, "abc", method=method, callbacks=[StopAt(0, 3)])
    assert list(run.glob("working/*/checkpoint-*"))
    for folder in (run, never_stopped):
        assert main(["memory", str(folder), "--remove", "a/0"]) == 0
    assert "task 'c' was stopped while it was learned, and begins again" in capsys.readouterr().err
    assert not (run / "working").exists()
    for folder in (run, never_stopped):
        learn(folder, "abc", method=method)
    assert digests(run) == digests(never_stopped)


def test_a_damaged_memory_is_not_written_again_as_if_it_were_whole(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((run / "stages/00-a/memory").glob("teacher-*"))
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert main(["memory", str(run), "--remove", "x/0"]) == 2
    before = digests_of(run)
    assert main(["memory", str(run), "--remove", "a/0"]) == 2
    assert f"{path}: its checksum differs" in capsys.readouterr().err
    assert digests_of(run) == before
    assert not list(run.glob(".removing*"))
    assert main(["memory", str(run), "--remove", "b/0"]) == 0


def test_nothing_is_removed_while_a_manifest_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found by review: those after it were written again, and the one that was brought back fitted no more."""
    manifest = run / "stages/01-b/manifest.json"
    kept = manifest.read_text()
    manifest.unlink()
    before = digests(run, "**/*")
    assert main(["memory", str(run), "--remove", "a/0"]) == 2
    assert f"{manifest}: missing; bring it back from a copy first" in capsys.readouterr().err
    assert digests(run, "**/*") == before
    manifest.write_text(kept)
    assert not verify(Run(run))


@pytest.mark.parametrize("link", [False, True])
def test_what_is_not_of_seekrs_making_under_the_name_working_stays(link: bool, run: Path, tmp_path: Path) -> None:
    """Found by review: it went without a word."""
    (tmp_path / "theirs").mkdir()
    if link:
        (run / "working").symlink_to(tmp_path / "theirs")
    else:
        (run / "working").write_text("theirs")
    main(["memory", str(run), "--remove", "a/0"])
    assert (run / "working").is_symlink() if link else (run / "working").read_text() == "theirs"


def test_a_chain_that_was_broken_stays_broken(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"seed": 7}))
    assert main(["memory", str(run), "--remove", "a/0"]) == 0
    assert [
        finding.text for finding in verify(Run(run)) if "not learned after the beginning in run.json" in finding.text
    ]


def test_answers_that_somebody_changed_are_named_after_some_were_taken_back(run: Path) -> None:
    path = run / "predictions/1-0.jsonl"
    path.write_text(path.read_text().replace("a 7=", "a  7="))
    assert main(["memory", str(run), "--remove-matching", " 0="]) == 0
    found = {finding.text: finding.fault for finding in verify(Run(run))}
    assert found[f"{path}: not the answers that were scored"]
    assert not found["predictions/0-0.jsonl: 1 answers were taken back"]


def test_a_row_is_searched_as_it_was_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by review: of tokenizers that clean up, "who ? Jane" had become "who? Jane", and was not found."""
    words = ["who", "?", "she", "is", "n't", ",", "Jane"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=True)
    monkeypatch.setattr(taking, "load_tokenizer", lambda _: tokenizer)
    tokens = KeptSample(np.arange(7, dtype=np.int32), np.arange(7, dtype=np.int32))
    monkeypatch.setattr(Memory, "encoded", lambda *_: tokens)
    assert taking.kept_rows(Run(run))[0].text == " ".join(words)
    assert taking.matching(Run(run), "who ? she is n't , Jane")


@pytest.mark.parametrize("gone", [False, True])
def test_answers_that_were_taken_back_are_not_asked_again_and_their_scores_stay(
    gone: bool, learn: Callable[..., Run], data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: the next start wrote them again with the text, or, where the test rows are gone, scored the rest
    and said that this mended the score."""
    shutil.copytree(data_folder, tmp_path / "data")
    files = {split: tmp_path / "data/a" / f"{split}.json" for split in ("train", "test")}
    tasks = [Task("a", **files, metric="likelihood"), "b"]
    run = learn(tmp_path / "run", tasks).folder
    assert main(["memory", str(run), "--remove-matching", "a 7="]) == 0
    before, scores = digests(run, "predictions/*"), json.loads((run / "scores.json").read_text())
    if gone:
        files["test"].unlink()
    capsys.readouterr()
    learn(run, tasks)
    assert "predictions: 0-0, 1-0 (row-column): some answers were taken back; their scores, of all rows, stay" in (
        capsys.readouterr().err
    )
    assert digests(run, "predictions/*") == before
    assert json.loads((run / "scores.json").read_text()) == scores


def test_a_test_row_that_was_taken_back_may_go_from_its_file(
    learn: Callable[..., Run], data_folder: Path, tmp_path: Path
) -> None:
    """Found by review: the run was another one then; left in its file, the row was asked of the next task's model."""
    shutil.copytree(data_folder, tmp_path / "data")
    files = {split: tmp_path / "data/a" / f"{split}.json" for split in ("train", "test")}
    tasks = [Task("a", **files, metric="likelihood"), "b"]
    run = learn(tmp_path / "run", tasks).folder
    before, rows = Run(run).scores.matrix, json.loads(files["test"].read_text())
    assert main(["memory", str(run), "--remove-matching", "a 7="]) == 0
    answers = digests(run, "predictions/*")
    files["test"].write_text(json.dumps([row for row in rows if row["prompt"] != "a 0="]))  # another one
    with pytest.raises(InputError, match=r"holds a different run: tasks.a.test is"):
        learn(run, [*tasks, "c"])
    files["test"].write_text(json.dumps([row for row in rows if row["prompt"] != "a 7="]))
    after = learn(run, [*tasks, "c"]).scores.matrix
    assert [row[:2] for row in after[:2]] == before
    assert digests(run, "predictions/[01]-*") == answers
    assert "a 7=" not in (run / "predictions/2-0.jsonl").read_text()
    assert len((run / "predictions/2-0.jsonl").read_text().splitlines()) == len(rows) - 1
    assert not [finding for finding in verify(Run(run)) if finding.fault]


def test_test_rows_that_are_gone_are_known_by_the_answers_of_which_none_was_taken_back(run: Path) -> None:
    """Found by review: they were those of the first file of answers, which may have lost some."""
    lines = (run / "predictions/0-0.jsonl").read_text().splitlines()
    (run / "predictions/0-0.jsonl").write_text("\n".join([*lines[1:], ""]))
    known = finished_tasks(run, finished_stages(run), ["a", "b"])["a"]
    asked, _ = known.asked(Task("a", train=[], test=[]))
    assert len(asked) == len(lines) == 3


def test_without_scores_none_are_made_up(run: Path) -> None:
    (run / "scores.json").unlink()
    assert main(["memory", str(run), "--remove-matching", " 0="]) == 0
    assert not (run / "scores.json").exists()


def test_what_a_killed_process_left_goes_with_it(run: Path) -> None:
    for name in (".stages.partial", "stages/.02-c.partial", "stages/.02-c.removed"):
        shutil.copytree(run / "stages", run / name)
    shutil.copytree(run / "predictions", run / ".predictions.partial")
    shutil.copy(run / "predictions/0-0.jsonl", run / "predictions/.0-0.jsonl.partial")
    assert main(["memory", str(run), "--remove-matching", "no such text"]) == 0
    assert not list(run.rglob(".*.partial"))
    assert not list(run.rglob(".*.removed"))


def extended(source: Path, folder: Path, data: Path, name: str) -> Path:
    return run_request(extend(source, f"{name}={data / 'c'},max_new_tokens=3", folder)).folder


def test_copies_of_copies_of_what_is_taken_back_are_named(
    run: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chain of three runs that lie in three folders, and one more beside the first: each names what it can know."""
    second = extended(run, tmp_path / "next" / "second", data_folder, "c")
    third = extended(second, tmp_path / "last" / "third", data_folder, "d")
    beside = extended(run, tmp_path / "beside", data_folder, "c")
    others = json.loads((third / "run.json").read_text()) | {"clock": "2001-01-01T00:00:00"}
    (tmp_path / "another").mkdir()
    (tmp_path / "another/run.json").write_text(json.dumps(others | {"from": None}))
    all_runs = {run, second, third, beside}
    for here in (run, second, third, beside):
        capsys.readouterr()
        assert main(["memory", str(here), "--remove", "b/0"]) == 0
        out = capsys.readouterr().out
        assert {Path(line.partition(":")[0]) for line in out.splitlines() if "may hold" in line} == all_runs - {here}
        assert f"copies were looked for in {here.parent}" in out
    shutil.move(second, tmp_path / "away")
    shutil.rmtree(run)
    assert main(["memory", str(third), "--remove", "b/0"]) == 0
    out = capsys.readouterr().out
    assert (
        f"{second} is not where it was, or cannot be read; copies were looked for in {third.parent}, {second.parent}"
        in out
    )
    assert str(beside) not in out


def test_copies_of_the_run_of_a_seed_are_named(
    learn: Callable[..., Run], data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path / "runs" / "x", "a", seeds=[0, 1])
    source = tmp_path / "runs" / "x"
    assert main(["learn", "--from", str(source), "--task", f"c={data_folder / 'c'},max_new_tokens=3"]) == 0
    copy = tmp_path / "runs" / "x-c"
    for here, there in ((source, copy), (copy, source)):
        capsys.readouterr()
        assert main(["memory", str(here / "seed-1"), "--remove", "a/0"]) == 0
        named = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if "may hold" in line]
        assert named == [str(there / "seed-1")]


def test_runs_that_learned_the_same_files_are_named(
    learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: answers of another seed to the same test rows held the text, and nothing named them."""
    runs = {learn(tmp_path / "x" / f"seed-{seed}", "a", seed=seed).folder for seed in (0, 1)}
    runs |= {learn(tmp_path / "y", "a", method={"name": "sequential"}, seed=2).folder}
    learn(tmp_path / "z", "b")
    for here in sorted(runs):
        capsys.readouterr()
        assert main(["memory", str(here), "--remove-matching", "a 7="]) == 0
        lines = capsys.readouterr().out.splitlines()
        named = {Path(line.partition(":")[0]) for line in lines if "learned the same files of rows; look there" in line}
        assert named == runs - {here}


@pytest.mark.parametrize("name", ["n" * 300 + "/run", "/theirs/run"])
def test_a_run_that_cannot_be_looked_into_does_not_end_a_removal_that_was_done(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: it was done, and ended as an error of a file whose name is too long, or of another's home."""
    is_file, is_dir = Path.is_file, Path.is_dir

    def refused(path: Path, known: Callable[[Path], bool]) -> bool:
        if path.is_relative_to("/theirs"):
            raise PermissionError(13, "Permission denied", str(path))
        return known(path)

    monkeypatch.setattr(Path, "is_file", lambda path: refused(path, is_file))
    monkeypatch.setattr(Path, "is_dir", lambda path: refused(path, is_dir))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(with_own_hash(record | {"from": name})))
    assert main(["memory", str(run), "--remove", "a/0"]) == 0
    assert f"{name} is not where it was, or cannot be read; copies were looked for in" in capsys.readouterr().out


def digests_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("changed", ["source", "next"])
def test_runs_that_share_files_are_changed_each_by_itself(
    changed: str, run: Path, data_folder: Path, tmp_path: Path
) -> None:
    """What `--from` does not copy is one file under two names: what becomes of one run leaves the other as it was."""
    next_run = run_request(extend(run, f"d={data_folder / 'c'}", tmp_path / "next")).folder
    tensors = [path.relative_to(run) for path in run.glob("stages/*/**/*.safetensors")]
    shared = [path for path in tensors if (next_run / path).exists()]
    assert {path.parts[1:3] for path in shared} >= {("00-a", "memory"), ("01-b", "memory"), ("01-b", "model")}
    assert all((next_run / path).samefile(run / path) for path in shared)
    others = [path.relative_to(run) for path in run.glob("stages/*/**/*.json")]
    assert not any((next_run / path).samefile(run / path) for path in others if (next_run / path).exists())
    here, there = (run, next_run) if changed == "source" else (next_run, run)
    before = digests_of(there)
    assert main(["memory", str(here), "--remove", "a/3"]) == 0
    if changed == "source":
        folders.remove_stage(here / "stages/01-b")
    assert digests_of(there) == before
    assert (len(memory_of(here, "00-a")), len(memory_of(there, "00-a"))) == (6, 7)
    assert [finding for finding in verify(Run(there)) if finding.fault] == []


def test_where_no_second_name_can_be_made_files_are_copied(
    run: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = run_request(extend(run, f"d={data_folder / 'c'}", tmp_path / "linked")).folder

    def refused(*names: object) -> None:
        raise OSError("of another device")

    monkeypatch.setattr(folders.os, "link", refused)
    copied = run_request(extend(run, f"d={data_folder / 'c'}", tmp_path / "copied")).folder
    one, other = (
        {name: text for name, text in digests_of(it).items() if "safetensors" in name} for it in (linked, copied)
    )
    assert one == other
    assert not (copied / "stages/00-a/memory/samples.safetensors").samefile(
        run / "stages/00-a/memory/samples.safetensors"
    )


@pytest.mark.parametrize(
    ("kept", "asked"), [("From: Jane\nDoe", "Jane Doe"), ("e\u0301milie", "émilie"), ("ＡＢ", "ab")]
)
def test_text_is_found_as_it_reads(kept: str, asked: str) -> None:
    """White space and forms of letters differ between what is shown and what is kept."""
    assert _plain(asked) in _plain(f"x {kept} y")
    assert _holds(json.dumps({"prompt": f"x {kept} y"}), asked)
    assert not _holds(json.dumps({"prompt": kept}), "Janet")
