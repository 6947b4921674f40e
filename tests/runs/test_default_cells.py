"""Which scores a run has where nobody says: a new one every task so far, one that has begun those it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seekr import Run
from seekr.config.recipes import read_recipes

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]


def test_a_new_run_of_few_tasks_shows_when_a_task_was_lost(learn: Learn, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", "abc")
    assert run.record["config"]["cells"] == "seen"
    assert all(run.scores.matrix[row][column] is not None for row in range(3) for column in range(row + 1))


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_began_with_the_papers_scores_keeps_to_them(learn: Learn, tmp_path: Path, named: bool) -> None:
    """Also one of before run.json named them: the same command goes on, and answers no row that it had not before."""
    learn(tmp_path / "run", "ab", cells="paper")
    if not named:
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        del record["config"]["cells"], record["sha256"]
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    run = learn(tmp_path / "run", "abc")
    assert run.record["config"]["cells"] == "paper"
    assert run.scores.matrix[1][0] is not None  # its last row, before
    assert run.cells == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}
    assert learn(tmp_path / "run", "abc", cells="seen").record["config"]["cells"] == "seen"


def test_settings_of_papers_name_their_scores() -> None:
    for name in ("paper", "released-code"):
        assert read_recipes([name])["cells"] == "paper"
