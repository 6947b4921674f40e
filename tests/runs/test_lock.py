"""One writer a run: also where the lock was deleted by hand, and where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_runs import SEEKR, digests
from transformers import TrainerCallback

from seekr import InputError, Run, RunError
from seekr.runs.lock import keep_lock, locked

HOLD = """
import sys; from pathlib import Path; from seekr.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("taken", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(run: Path) -> Iterator[subprocess.Popen[str]]:
    """At work in the folder of a run until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    yield process
    process.communicate()


class WhenTrainingBegins(TrainerCallback):
    """Does something as the second task is trained."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.begun = work, 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun += 1
        if self.begun == 2:
            self.work()


def test_who_holds_the_lock_is_named_and_stays_named(tmp_path: Path) -> None:
    with another_process(tmp_path) as other:
        for _ in range(2):
            with pytest.raises(InputError, match=f"another process \\(process {other.pid} on .*\\) is at work in this"):
                locked(tmp_path).__enter__()
    with locked(tmp_path):
        keep_lock(tmp_path)
    keep_lock(tmp_path)  # where none is held there is none to keep


def test_a_lock_that_was_deleted_is_taken_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        keep_lock(tmp_path)
        assert ".lock was deleted" in capsys.readouterr().err
        with pytest.raises(InputError, match="another process"):
            locked(tmp_path).__enter__()
        keep_lock(tmp_path)
        assert capsys.readouterr().err == ""
    with locked(tmp_path):
        pass


def test_a_lock_that_was_deleted_and_taken_by_another_process_is_lost(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        with another_process(tmp_path) as other, pytest.raises(RunError, match=f"process {other.pid} on"):
            keep_lock(tmp_path)
        with pytest.raises(RunError, match="has taken this folder"):  # it has been at work, though it has ended
            keep_lock(tmp_path)


def test_a_run_whose_lock_is_deleted_is_what_it_would_have_been(
    finished: Run, learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    learn(run, method=SEEKR, callbacks=[WhenTrainingBegins((run / ".lock").unlink)])
    assert capsys.readouterr().err.count(".lock was deleted") == 1
    assert digests(run) == digests(finished.folder)


def test_a_stage_is_not_written_where_another_process_has_taken_the_run(
    finished: Run, learn: Callable[..., Run], tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def taken_by_another() -> None:
        (run / ".lock").unlink()
        with another_process(run):
            pass

    with pytest.raises(RunError, match=r"\.lock: another process \(process \d+ on .*\) has taken this folder"):
        learn(run, method=SEEKR, callbacks=[WhenTrainingBegins(taken_by_another)])
    assert [path.name for path in (run / "stages").iterdir() if path.name[0] != "."] == ["00-a"]
    assert digests(learn(run, method=SEEKR).folder) == digests(finished.folder)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_a_second_process_is_seen(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(number, "none here")

    monkeypatch.setattr(fcntl, "flock", refused)
    with locked(tmp_path):
        said = capsys.readouterr().err
        assert "this file system has no locks (none here)" in said
        assert said.count("\n") == 1
        keep_lock(tmp_path)
        with another_process(tmp_path) as other, pytest.raises(RunError, match=f"process {other.pid} on"):
            keep_lock(tmp_path)


def test_a_lock_that_is_another_name_of_a_file_is_not_written_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for link in (Path.symlink_to, Path.hardlink_to):
        link(tmp_path / ".lock", mine)
        with pytest.raises(InputError, match="is a link, and locking writes to it"):
            locked(tmp_path).__enter__()
        (tmp_path / ".lock").unlink()
    assert mine.read_text() == "mine"


def test_what_cannot_be_locked_ends_in_a_line(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="is a folder, where a file should be"):
        locked(tmp_path).__enter__()
