"""The command's last words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from seekr.cli import main as command


def test_a_folder_that_is_not_copied_to_its_end_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Found by full disks: a list of every file and what was said of it."""

    def copy(*_: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("")
    work = lambda parsed: shutil.copytree(tmp_path / "a", tmp_path / "c", copy_function=copy)  # noqa: E731
    monkeypatch.setitem(command._COMMANDS, "demo", work)
    assert command.main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said == f"seekr: error: {tmp_path}/c/b: cannot be written: [Errno 28] No space left on device\n"


def test_an_error_of_the_program_is_no_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(parsed: object) -> None:
        (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 and no more")
        torch.load(tmp_path / "broken.pt")

    monkeypatch.setitem(command._COMMANDS, "demo", load)
    with pytest.raises(RuntimeError):
        command.main(["demo"])


@pytest.mark.parametrize(
    "name", ["chat", "check", "evaluate", "export", "graft", "heads", "memory", "status", "verify"]
)
def test_a_run_whose_name_no_folder_can_have_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` alone took its run as it was written."""
    assert command.main([name, "x" * 300]) == 2
    error = capsys.readouterr().err
    assert "no file or folder can have this name" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["check", "RUN", "RUN"], ["check", "RUN", "--max-drp", "5"]])
def test_an_unknown_argument_leads_to_the_help_of_its_command(words: list[str], capsys: pytest.CaptureFixture[str]):
    """It led to `seekr --help`, where no command's options are."""
    assert command.main(words) == 2
    assert capsys.readouterr().err.endswith("; see `seekr check --help`\n")
