"""Something else in place of each file of a run: no command waits for a FIFO, none ends in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import SEEKR, Stop, StopAt, digests
from tiers import thorough

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.disk.files import write_json
from seekr.disk.regular import OddFile, read_bytes, regular
from seekr.runs.execute import copy_run
from seekr.runs.folder import check_copied
from seekr.runs.grafted import Grafted, add_grafted
from seekr.runs.manifest import MANIFEST
from seekr.runs.verify import verify

LOOKS = (
    "status RUN",
    "check RUN",
    "heads RUN",
    "memory RUN",
    "memory RUN --search a",
    "compare RUN",
    "report RUN --output OUT.html",
    "verify RUN",
)
WORKS = (
    "plan CONFIG",
    "learn CONFIG --dry-run",
    "export RUN --output OUT --stage b",
    "score RUN --task a=DATA/a/test.json --stage b",
    "chat RUN --stage b",
    "memory RUN --remove-matching a",
    "evaluate RUN",
    "learn CONFIG",
)
SECONDS = 30


class Waits(BaseException):
    """A command that is not done after SECONDS."""


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    def end(*_: Any) -> None:
        raise Waits

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def link_to_a_folder(path: Path) -> None:
    (path.parent.parent / f"elsewhere{path.name}").mkdir()
    path.symlink_to(f"../elsewhere{path.name}")


def a_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as one:  # a socket's whole path is short
        one.bind(path.name)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # making one takes the rights of root


ODD = [fifo, folder, dangling_link, link_to_a_fifo, a_socket, a_device]


@pytest.fixture(scope="module")
def stopped(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks are learned, the third has a checkpoint, and there is what other commands leave."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        learn(run, "abc", method=SEEKR, callbacks=[StopAt(2, 3)])
    general = {"task": "t", "stage": None, "metric": "acc", "score": 0.5, "error": None, "rows": 2, "version": "1"}
    write_json(run / "general.json", [general])
    add_grafted(run, [Grafted("a", "a", "b", "all", 8, (), 3, 50.0, 40.0, 45.0, None)], ["a", "b"])
    return run


def kinds(run: Path) -> list[str]:
    """A file of each kind, all of the newest stage and checkpoint."""
    found: dict[tuple[str, ...], str] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(run)
        kind = name.parts[0], *(name.parts[2:-1]), "" if name.parts[0] == "predictions" else name.name
        found[kind] = str(name)
    return list(found.values())


def give(command: str, run: Path) -> str:
    """What a command says of a run, in a time that is no waiting and without a traceback."""
    for name, place in {"RUN": run, "OUT": run.parent / "out", "CONFIG": run.parent / "config.json"}.items():
        command = re.sub(rf"\b{name}\b", str(place), command)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_waiting():
        status = main(command.split())
    assert status in (0, 1, 2, 3), command
    assert status in (0, 3) or "seekr: error: " in err.getvalue(), command
    return out.getvalue() + err.getvalue()


def put(odd: Callable[[Path], None], path: Path) -> Callable[[], None]:
    """Puts something in place of a file; what it returns puts the file back."""
    whole = read_bytes(path)
    path.unlink()
    odd(path)

    def back() -> None:
        path.rmdir() if path.is_dir() else path.unlink()
        (path.parent / "elsewhere").unlink(missing_ok=True)
        path.write_bytes(whole)

    return back


def copied(run: Path, place: Path, *, manifests: bool) -> Path:
    copy = Path(shutil.copytree(run, place / "run", symlinks=True))
    for path in copy.rglob(MANIFEST) if not manifests else ():
        path.unlink()
    return copy


def look(run: Path, odd: Callable[[Path], None]) -> None:
    """Each kind of file is replaced in turn, and all commands that only look are given."""
    for name in kinds(run):
        back = put(odd, run / name)
        for command in LOOKS:
            give(command, run)
        back()


@pytest.mark.parametrize("manifests", [True, *thorough(False)])
def test_no_command_that_looks_waits_for_a_fifo(manifests: bool, stopped: Path, tmp_path: Path) -> None:
    look(copied(stopped, tmp_path, manifests=manifests), fifo)


@pytest.mark.thorough
@pytest.mark.parametrize("odd", [*ODD[1:3], *(pytest.param(odd, marks=pytest.mark.slow) for odd in ODD[3:])])
def test_no_command_that_looks_trips_over_what_is_no_file(
    odd: Callable[[Path], None], stopped: Path, tmp_path: Path
) -> None:
    look(copied(stopped, tmp_path / "with", manifests=True), odd)
    look(copied(stopped, tmp_path / "without", manifests=False), odd)


@pytest.mark.thorough
@pytest.mark.parametrize("odd", [fifo, folder, dangling_link])
@pytest.mark.parametrize("manifests", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_command_that_works_waits_or_trips(
    manifests: bool,
    odd: Callable[[Path], None],
    stopped: Path,
    finished: Run,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    works = WORKS if odd is fifo else WORKS[1:]  # a plan opens what a dry run does, and takes half of all the time
    of_finished = ("graft RUN --task a", "learn --from RUN --task c=DATA/c --output-dir OUT")
    for source, command in [(stopped, one) for one in works] + [(finished.folder, one) for one in of_finished]:
        for name in kinds(source):
            if manifests or not name.endswith(MANIFEST):
                run = copied(source, tmp_path / "one", manifests=manifests)
                config = Run(source).config.model_dump(mode="json") | {"output_dir": str(run)}
                write_json(run.parent / "config.json", config)
                put(odd, run / name)
                give(command.replace("DATA", str(data_folder)), run)
                shutil.rmtree(run.parent)


@pytest.mark.parametrize("odd", [fifo, folder, dangling_link, Path.write_text])
def test_verify_calls_scores_that_are_none_a_fault_where_answers_are_there(
    odd: Callable[..., Any], finished: Run, tmp_path: Path
) -> None:
    run = copied(finished.folder, tmp_path, manifests=True)
    (run / "scores.json").unlink()
    assert "scores.json: missing, though answers are there" in give("verify RUN", run)
    odd(*((run / "scores.json", "") if odd is Path.write_text else (run / "scores.json",)))
    assert main(["verify", str(run)]) == 3
    assert "scores.json" in give("verify RUN", run)


def test_a_manifest_that_is_no_file_is_not_that_of_an_earlier_version(
    finished: Run, learn: Callable[..., Run], tmp_path: Path
) -> None:
    run = copied(finished.folder, tmp_path, manifests=True)
    put(fifo, run / "stages/01-b" / MANIFEST)
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        learn(run, "abc", method=SEEKR)


@pytest.mark.parametrize("name", ["samples.safetensors", "memory.json"])
def test_a_stage_with_a_fifo_is_not_taken_over(
    name: str, finished: Run, learn: Callable[..., Run], tmp_path: Path
) -> None:
    """A hard link to it would stand in the new run, and be waited for."""
    run = copied(finished.folder, tmp_path, manifests=False)
    put(fifo, run / "stages/00-a/memory" / name)
    with no_waiting(), pytest.raises(InputError, match="memory"):
        check_copied(run / "stages/00-a")


@pytest.mark.parametrize("odd", ODD)
def test_the_one_opener_opens_files_alone(odd: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "odd"
    odd(path)
    for read in (read_bytes, regular):
        with no_waiting(), pytest.raises(OSError, match="odd") as raised:
            read(path)
        assert isinstance(raised.value, FileNotFoundError if odd is dangling_link else OddFile)
    (tmp_path / "whole").write_bytes(b"here")
    (tmp_path / "link").symlink_to("whole")
    assert read_bytes(tmp_path / "link") == b"here"


TEMPORARY = {
    ".": [".run.json.partial", ".scores.json.partial", ".model.partial"],
    "predictions": [".2-2.jsonl.partial"],
    "stages": [".02-c.partial"],
    "stages/00-a": [".model.removed"],
    "working/02-c": [".task.json.partial"],
}


@pytest.mark.parametrize("planted", [fifo, Path.touch, dangling_link, link_to_a_folder])
def test_what_stands_under_names_that_seekr_writes_first_stops_no_run(
    planted: Callable[[Path], None], stopped: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    runs = [copied(stopped, tmp_path / name, manifests=True) for name in ("whole", "planted")]
    for folder, names in TEMPORARY.items():
        for name in names:
            planted(runs[1] / folder / name)
    for run in runs:
        learn(run, "abc", method=SEEKR, keep_stages="last")
    assert digests(runs[1]) == digests(runs[0])
    assert not any(os.path.lexists(runs[1] / folder / name) for folder, names in TEMPORARY.items() for name in names)
    assert verify(Run(runs[1])) == verify(Run(runs[0])) == []


@pytest.mark.parametrize("name", [".run.json.partial", ".model.partial", ".scores.json.partial"])
def test_a_folder_under_such_a_name_of_a_file_is_named(
    name: str, stopped: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    run = copied(stopped, tmp_path, manifests=True)
    (run / name / "theirs").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{name}: is a folder, .*; remove it"):
        learn(run, "abc", method=SEEKR)
    assert (run / name / "theirs").is_dir()


@pytest.mark.parametrize("planted", [fifo, Path.touch, Path.mkdir, dangling_link, link_to_a_folder])
def test_what_is_taken_over_goes_where_something_was_left(
    planted: Callable[[Path], None], finished: Run, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in (".predictions.partial", ".stages.partial"):
        planted(tmp_path / "run" / name)
    copy_run(finished.folder, tmp_path / "run")
    assert digests(tmp_path / "run") == {
        name: digest for name, digest in digests(finished.folder).items() if name in digests(tmp_path / "run")
    }
    assert sorted(path.name for path in (tmp_path / "run/stages").iterdir()) == ["00-a", "01-b"]
