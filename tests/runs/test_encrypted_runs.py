"""Runs whose kept rows and answers are encrypted: they learn what others learn, and say nothing without the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import SEEKR, Stop, StopAt, digests

from seekr import InputError, Run
from seekr.cli.main import main

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
