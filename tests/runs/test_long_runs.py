"""What a run of many tasks does once, and not once for each task that comes after."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import SEEKR

from seekr import Run
from seekr.methods import seekr as method
from seekr.methods.seekr import importance_of
from seekr.runs import kept_scores, scores

Learn = Callable[..., Run]


def calls_of(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, key: Callable[..., Any]) -> Counter[Any]:
    """How often a function is called, by what `key` says of its arguments."""
    counted: Counter[Any] = Counter()
    real = getattr(place, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        counted[key(*arguments)] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, counting)
    return counted


def test_memories_are_hashed_once_and_importance_is_read_once_however_many_tasks_come_after(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file(stream: Any, _: str) -> tuple[str, int, int]:
        about = os.fstat(stream.fileno())
        return Path(stream.name).name, about.st_ino, about.st_mtime_ns

    hashed = calls_of(monkeypatch, hashlib, "file_digest", file)
    tables = calls_of(monkeypatch, method, "load_file", lambda path: path.parent.name)
    stages = learn(tmp_path / "run", "abc", method=SEEKR).stages
    assert set(hashed.values()) == {1}
    assert sum(name.startswith("teacher-") for name, _, _ in hashed) == len(stages) == 3
    assert tables == {"00-a": 1, "01-b": 1}


def test_importance_that_was_changed_is_read_again(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    path.write_bytes((finished.folder / "stages/00-a/importance.safetensors").read_bytes())
    assert importance_of(tmp_path).keys() == finished.stages[0].importance.keys()
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read"):
        importance_of(tmp_path)


def test_a_run_with_nothing_left_to_do_writes_its_scores_once_and_reads_each_answer_once(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learn(tmp_path / "run", "abc").folder
    before = (run / "scores.json").read_bytes()
    written = calls_of(monkeypatch, kept_scores, "write_json", lambda path, _: path.name)
    read = calls_of(monkeypatch, scores, "read_predictions", lambda path: path.name)
    learn(run, "abc")
    assert written == {"scores.json": 1}
    assert read == {path.name: 1 for path in (run / "predictions").iterdir()}
    assert (run / "scores.json").read_bytes() == before
