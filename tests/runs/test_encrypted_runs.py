"""Runs whose kept rows and answers are encrypted: they learn what others learn, and say nothing without the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SEEKR, Stop, StopAt, digests

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.disk.files import write_json
from seekr.disk.sealed import read_text
from seekr.runs.execute import run_request
from seekr.runs.prepare import Request

KEY = "07" * 32


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEKR_KEY", KEY)


@pytest.fixture(scope="module")
def encrypted(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEKR_KEY", KEY)
        return learn(tmp_path_factory.mktemp("encrypted") / "run", "ab", method=SEEKR, encrypt=True).folder


def test_it_learns_the_same_weights_and_scores(encrypted: Path, finished: Run) -> None:
    models = "stages/*/model/*.safetensors"
    assert digests(encrypted, models) == digests(finished.folder, models)
    assert Run(encrypted).scores == finished.scores
    assert Run(encrypted).answers(1, 0) == finished.answers(1, 0)


def test_it_is_stopped_and_gone_on_with(encrypted: Path, learn: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", "ab", method=SEEKR, encrypt=True, callbacks=[StopAt(1, 5)])
    learn(tmp_path / "run", "ab", method=SEEKR, encrypt=True)
    models = "stages/*/model/*.safetensors"
    assert digests(tmp_path / "run", models) == digests(encrypted, models)


def test_no_text_of_a_row_or_an_answer_is_in_it(encrypted: Path, finished: Run) -> None:
    """Rows as bytes of their tokens, and answers as text, are found in a run that is not encrypted."""
    kept = finished.stages[0].memory
    assert kept is not None
    tokens = kept.encoded(0).input_ids.tobytes()
    prompt = json.dumps(finished.answers(0, 0)[0].prompt).encode()
    for found in (tokens, prompt):
        assert any(found in path.read_bytes() for path in finished.folder.rglob("*") if path.is_file())
        assert not any(found in path.read_bytes() for path in encrypted.rglob("*") if path.is_file())


def test_without_the_key_or_with_another_it_ends_in_one_line_and_keeps_everything(
    encrypted: Path, learn: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(encrypted, "**/*")
    for key, told in (("08" * 32, "another key"), ("", "needs a key")):
        monkeypatch.setenv("SEEKR_KEY", key)
        with pytest.raises(InputError, match=told):
            learn(encrypted, "abc", method=SEEKR, encrypt=True)
        for command in ("memory", "check", "evaluate"):
            assert main([command, str(encrypted)]) == 2
            said = capsys.readouterr().err
            assert told in said
            assert len([line for line in said.splitlines() if line.startswith("seekr: error:")]) == 1
    assert digests(encrypted, "**/*") == before


def test_a_page_says_once_that_there_is_no_key(
    encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said so once a file of answers."""
    monkeypatch.delenv("SEEKR_KEY")
    page = tmp_path / "page.html"
    assert main(["report", str(encrypted), "--output", str(page)]) == 0
    count = len(list((encrypted / "predictions").iterdir()))
    for said in (capsys.readouterr().err, page.read_text()):
        assert said.count("needs a key") == 1
        assert f"and {count - 1} more there: " in said


def test_rows_are_taken_back(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn(tmp_path / "run", "ab", method=SEEKR, encrypt=True)
    memory = run.stages[0].memory
    assert memory is not None
    count = len(memory)
    assert main(["memory", str(run.folder), "--remove", "a/0"]) == 0
    after = Run(run.folder).stages[0].memory
    assert after is not None
    assert len(after) == count - 1
    assert after.encrypted
    assert main(["verify", str(run.folder)]) == 0
    learn(run.folder, "abc", method=SEEKR, encrypt=True)


def test_a_run_that_goes_on_from_one_that_is_not_encrypted_reads_both(
    finished: Run, learn: Callable[..., Run], tmp_path: Path, data_folder: Path
) -> None:
    task = f"c={data_folder / 'c'},max_new_tokens=3"
    words = ["learn", "--from", str(finished.folder), "--task", task, "--output-dir", str(tmp_path / "more")]
    assert main([*words, "encrypt=true"]) == 0
    memories = [stage.memory for stage in Run(tmp_path / "more").stages]
    assert [memory.encrypted for memory in memories if memory is not None] == [False, False, True]


@pytest.fixture
def another(encrypted: Path, tmp_path: Path) -> Path:
    """The same run, to be written to."""
    return Path(shutil.copytree(encrypted, tmp_path / "another", symlinks=True))


def plain(run: Path) -> list[str]:
    """What could hold text of a row, and is in plain text."""
    files = [*run.glob("predictions/*"), *run.glob("stages/*/memory/*.safetensors")]
    return [str(path.relative_to(run)) for path in files if b"AES-256-GCM" not in path.read_bytes()[:4000]]


def encrypts(run: Path) -> bool:
    return bool(Run(run).record["config"]["encrypt"])


def test_a_run_stays_encrypted_where_the_configuration_says_nothing_of_it(
    another: Path, learn: Callable[..., Run]
) -> None:
    """It went on in plain text, and said encrypt: false from then on."""
    write_json(another.parent / "config.json", Run(another).config.model_dump(mode="json", exclude={"encrypt"}))
    for words in ([], ["--redo", "b"]):
        assert main(["learn", str(another.parent / "config.json"), *words]) == 0
        assert encrypts(another)
    learn(another, "abc", method=SEEKR)
    assert encrypts(another)
    assert plain(another) == []
    assert main(["verify", str(another)]) == 0


def test_a_run_that_goes_on_from_an_encrypted_one_is_encrypted(another: Path, data_folder: Path) -> None:
    more = another.with_name("more")
    words = ["learn", "--from", str(another), "--task", f"c={data_folder / 'c'},max_new_tokens=3", "--output-dir"]
    assert main([*words, str(more)]) == 0
    assert encrypts(more)
    assert plain(more) == []
    assert main(["verify", str(more)]) == 0


def test_an_encrypted_run_refuses_to_go_on_in_plain_text(
    another: Path, learn: Callable[..., Run], data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(another, "**/*")
    for more in ({}, {"cells": "all"}):
        with pytest.raises(InputError, match=r"encrypt: false, but what .* keeps is encrypted"):
            learn(another, "abc", method=SEEKR, encrypt=False, **more)
    words = ["learn", "--from", str(another), "--task", f"c={data_folder / 'c'}", "--output-dir"]
    assert main([*words, str(another.with_name("more")), "encrypt=false"]) == 2
    assert "leave the key out, or say encrypt: true" in capsys.readouterr().err
    assert not another.with_name("more").exists()
    assert digests(another, "**/*") == before


def test_a_new_seed_among_encrypted_ones_is_refused_in_plain_text(learn: Callable[..., Run], tmp_path: Path) -> None:
    small = {"tasks": "a", "method": "sequential"}
    learn(tmp_path / "run", seeds=[0], encrypt=True, **small)
    with pytest.raises(InputError, match=r"seed-0 is encrypted, and .*seed-1 would not be; say encrypt: true"):
        learn(tmp_path / "run", seeds=[0, 1], **small)
    assert not (tmp_path / "run" / "seed-1").exists()


def test_a_new_method_next_to_an_encrypted_one_is_refused_in_plain_text(
    learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = learn(tmp_path / "runs" / "sequential", "a", method="sequential", encrypt=True)
    config = first.config.model_dump(mode="json", exclude={"encrypt", "method"})
    write_json(tmp_path / "config.json", config | {"output_dir": str(tmp_path / "runs")})
    words = ["learn", str(tmp_path / "config.json"), "--methods", "sequential,ewc"]
    assert main(words) == 2
    assert "method ewc: " in (said := capsys.readouterr().err)
    assert "would not be; say encrypt: true" in said
    assert not (tmp_path / "runs" / "ewc").exists()
    assert main([*words, "encrypt=true"]) == 0


def test_a_part_in_plain_text_is_a_fault_where_it_was_kept_since_encryption_began(
    another: Path, finished: Run, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the run that goes on from one in plain text, the stages taken over are a note."""
    more = tmp_path / "more"
    words = ["learn", "--from", str(finished.folder), "--task", f"c={data_folder / 'c'},max_new_tokens=3"]
    assert main([*words, "--output-dir", str(more), "encrypt=true"]) == 0
    assert [path for path in plain(more) if "/2-" in path or "02-c" in path] == []
    capsys.readouterr()
    assert main(["verify", str(more)]) == 0
    assert "kept before encryption began, and stays so" in capsys.readouterr().out
    assert main(["status", str(more)]) == 0
    assert capsys.readouterr().err == ""

    answers = another / "predictions" / "1-0.jsonl"
    answers.write_text(read_text(answers))
    shutil.copy(finished.stages[0].folder / "memory" / "samples.safetensors", another / "stages" / "00-a" / "memory")
    assert main(["verify", str(another)]) == 3
    said = capsys.readouterr().out
    assert (
        "stages/00-a/memory/samples.safetensors: in plain text, though run.json says encrypt: true (and 1 more)" in said
    )
    assert main(["status", str(another)]) == 0
    assert capsys.readouterr().err.count("in plain text") == 1


def test_verify_without_the_key_reports_all_hashes(
    another: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended before anything was reported."""
    for key, told in (("", "encryption needs a key"), ("08" * 32, "another key")):
        monkeypatch.setenv("SEEKR_KEY", key)
        assert main(["verify", str(another)]) == 0
        said = capsys.readouterr().out
        assert told in said
        assert said.count("scores were not computed again") == 1
        assert "no fault was found" in said
    (another / "stages" / "01-b" / "log.jsonl").write_text("")
    (another / "predictions" / "1-1.jsonl").write_text("")
    assert main(["verify", str(another)]) == 3
    said = capsys.readouterr().out
    assert "log.jsonl: it has 0 bytes" in said
    assert "1-1.jsonl: not the answers that were scored" in said


def test_export_needs_no_key(encrypted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cards = []
    for number in "12":
        assert main(["export", str(encrypted), "--output", str(tmp_path / number / "model")]) == 0
        cards.append((tmp_path / number / "model" / "README.md").read_text())
        monkeypatch.delenv("SEEKR_KEY", raising=False)
    assert "3 of `a`" in cards[0]
    assert cards[0] == cards[1]


@pytest.mark.parametrize(("key", "told"), [("", "needs a key"), ("08" * 32, "another key")])
@pytest.mark.parametrize("tasks", ["a", "ab"])
def test_the_key_is_tried_before_run_json_is_written(
    tasks: str, key: str, told: str, learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a method that keeps nothing: answers alone are encrypted, and they were read once the run had begun."""
    run = learn(tmp_path / "run", "a", method="sequential", encrypt=True).folder
    before = digests(run, "**/*")
    monkeypatch.setenv("SEEKR_KEY", key)
    with pytest.raises(InputError, match=told):
        learn(run, tasks, method="sequential")
    assert digests(run, "**/*") == before


def test_answers_that_were_changed_are_no_sign_of_another_key(another: Path, learn: Callable[..., Run]) -> None:
    answers = another / "predictions" / "1-0.jsonl"
    answers.write_text(f"{answers.read_text()[:-9]}00000000\n")
    assert learn(another, "ab", method=SEEKR).finished
    assert main(["verify", str(another)]) == 0


def test_with_all_answers_gone_the_kept_rows_tell_another_key(another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers were made again by another key then, and one run had two."""
    shutil.rmtree(another / "predictions")
    before = digests(another, "**/*")
    monkeypatch.setenv("SEEKR_KEY", "08" * 32)
    assert main(["evaluate", str(another)]) == 2
    assert digests(another, "**/*") == before


def test_a_kept_row_that_was_damaged_is_no_sign_of_another_key(another: Path) -> None:
    """Found by review: it closed every way out, and verify advised the one that was closed."""
    path = another / "stages/01-b/memory/samples.safetensors"
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        start = 8 + size + json.loads(file.read(size))["ends"]["data_offsets"][0]
        file.seek(start)
        byte = file.read(1)[0]
        file.seek(start)
        file.write(bytes([byte ^ 1]))
    assert main(["evaluate", str(another)]) == 0
    run_request(Request(Run(another).config, redo="b"))
    assert main(["verify", str(another)]) == 0


def test_a_run_that_is_begun_again_takes_a_new_key(another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by review: with its key lost, nothing of it could be learned again."""
    monkeypatch.setenv("SEEKR_KEY", "08" * 32)
    run_request(Request(Run(another).config, redo="a"))
    assert main(["verify", str(another)]) == 0
