"""Run folders as no version would write them: every command that reads one shows what is there, or says a line."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earlier_runs import as_of_before_manifests
from fuzzing import EDIT, VALUE, edited, few, many, one_line_or_an_answer
from hypothesis import given
from hypothesis import strategies as st
from small_runs import SEEKR, Stop, StopAt

from seekr import Run
from seekr.cli.main import main
from seekr.memory.reader import Memory
from seekr.training.checkpoints import newest_whole_checkpoint

LOOKS = ("status", "check", "heads", "memory", "compare", "report", "verify")

CHANGES = {
    "changes": st.lists(
        st.tuples(st.floats(0, 0.999), st.lists(EDIT, min_size=1, max_size=2) | st.tuples(st.floats(0, 0.999), VALUE)),
        min_size=1,
        max_size=3,
    ),
    "with_manifests": st.booleans(),
}
"""Which file, and new bytes, or which value of a JSON file and what stands in its place."""


@pytest.fixture(scope="module")
def stopped(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks are learned, and the third has a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        learn(folder, "abc", method=SEEKR, callbacks=[StopAt(2, 3)])
    return folder


def with_a_value_replaced(content: bytes, place: float, value: Any) -> bytes:
    """A JSON text, or a line of JSON Lines, in which one value, at whatever depth, is another."""
    lines = content.splitlines(keepends=True)
    try:
        whole = json.loads(content)
    except ValueError:
        at = int(place * len(lines))
        try:
            whole = json.loads(lines[at])
        except (ValueError, IndexError):
            return content
        return b"".join([*lines[:at], json.dumps(_replaced(whole, place, value)).encode() + b"\n", *lines[at + 1 :]])
    return json.dumps(_replaced(whole, place, value)).encode()


def _replaced(whole: Any, place: float, value: Any) -> Any:
    found: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            found.append((inner, key))
            walk(inner[key])

    walk(whole)
    if not found:
        return value
    holder, key = found[int(place * 997) % len(found)]
    holder[key] = value
    return whole


def fuzz_run(run: Path, place: Path, changes: list[Any], with_manifests: bool) -> None:
    """Commands for a changed copy of the run; nothing beside the copy is written."""
    copy = Path(shutil.copytree(run, place / "copy", symlinks=True))
    try:
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != ".lock")
        if not with_manifests:  # as of a version that wrote none: what is read is not known by its hash
            as_of_before_manifests(copy)
        for which, change in changes:
            path = files[int(which * len(files))]
            if path.exists():
                content = path.read_bytes()
                changed = (
                    with_a_value_replaced(content, *change) if isinstance(change, tuple) else edited(content, change)
                )
                path.write_bytes(changed)
        before = _digest(run)
        for command in LOOKS:
            more = ["--output", str(place / "page.html")] if command == "report" else []
            said = io.StringIO()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), one_line_or_an_answer():
                assert main([command, str(copy), *more]) in (0, 1, 2, 3)
            long = [line for line in said.getvalue().splitlines() if line.startswith("seekr:") and len(line) > 600]
            assert not long
        for memory in sorted(copy.glob("stages/*/memory")):
            with one_line_or_an_answer():
                opened = Memory.open(memory)
                for sample in range(len(opened)):
                    opened.encoded(sample), opened.logits(sample), opened.attention(sample)
        with one_line_or_an_answer(), contextlib.redirect_stderr(io.StringIO()):
            for folder in copy.glob("working/*"):
                newest_whole_checkpoint(folder)
        assert {path.name for path in place.iterdir()} <= {"copy", "page.html"}
        assert _digest(run) == before
    finally:
        shutil.rmtree(copy)


def _digest(run: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file())).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed-runs")


def _few(test: Callable[..., None]) -> Callable[..., None]:
    return few(test, 20)


def _many(test: Callable[..., None]) -> Callable[..., None]:
    return many(test, 1000)


@_few
@given(**CHANGES)
def test_run_folders(stopped: Path, place: Path, changes: Any, with_manifests: bool) -> None:
    fuzz_run(stopped, place, changes, with_manifests)


@_many
@given(**CHANGES)
def test_many_run_folders(stopped: Path, place: Path, changes: Any, with_manifests: bool) -> None:
    fuzz_run(stopped, place, changes, with_manifests)
