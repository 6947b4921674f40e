"""scores.json has a place for every pair of tasks: it is written once a row, and loses no score for that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import digests

from seekr import Run, evaluate
from seekr.runs import kept_scores, scores
from seekr.runs.verify import verify


class Killed(BaseException):
    pass


def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many scores each writing had."""
    found = []
    real = kept_scores.write_json

    def counted(path: Path, content: Any) -> None:
        found.append(sum(score is not None for row in content["matrix"] for score in row))
        real(path, content)

    monkeypatch.setattr(kept_scores, "write_json", counted)
    return found


def test_scores_are_written_once_a_row(
    learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_SECONDS", float("inf"))
    counts = written(monkeypatch)
    learn(tmp_path / "run", "abc", cells="all")
    assert counts == [0, 3, 6, 9]


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_killed_within_a_row_it_goes_on_to_the_same_scores(
    killed: int, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(finished.folder, tmp_path / "whole"))
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    evaluate(whole, "all")
    real, count = scores.ScoreBook._score, iter(range(100))

    def kill(*given: Any) -> None:
        if next(count) == killed:
            raise Killed
        real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(scores.ScoreBook, "_score", kill)
        with pytest.raises(Killed):
            evaluate(run, "all")
    evaluate(run, "all")
    assert digests(run, "predictions/*") == digests(whole, "predictions/*")
    assert json.loads((run / "scores.json").read_text()) == json.loads((whole / "scores.json").read_text())
    assert not verify(Run(run))
