"""The continual-learning numbers against their formulas, written out with indices from 1."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr.errors import InputError
from seekr.scoring.matrix import ScoreMatrix

SCORE = st.floats(0, 100)


def add_task(scores: ScoreMatrix, name: str, metric: str | None) -> None:
    """One more task at the end of the sequence, nothing of it measured."""
    scores.tasks.append(name)
    scores.metrics.append(metric)
    scores.base.append(None)
    for row in scores.matrix:
        row.append(None)
    scores.matrix.append([None] * len(scores.tasks))


def full(base: list[float], cells: list[list[float | None]]) -> ScoreMatrix:
    matrix = ScoreMatrix()
    for j in range(len(base)):
        add_task(matrix, f"task{j}", "accuracy")
    matrix.base[:] = base
    matrix.matrix[:] = [list(row) for row in cells]
    return matrix


@settings(deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(SCORE, min_size=n, max_size=n), min_size=n + 1, max_size=n + 1)
    )
)
def test_numbers_of_a_full_matrix(cells: list[list[float]]) -> None:
    b = [None, *cells[0]]
    a = [[None], *([None, *row] for row in cells[1:])]
    T = len(cells) - 1
    scores = full(cells[0], cells[1:])
    total = sum(a[T][j] - a[j][j] for j in range(1, T))
    assert scores.overall_performance == pytest.approx(sum(a[T][1:]) / T)
    assert scores.backward_transfer == pytest.approx(total / (T - 1))
    assert scores.backward_transfer_over_all_tasks == pytest.approx(total / T)
    forgotten = [max(a[i][j] for i in range(1, T)) - a[T][j] for j in range(1, T)]
    assert scores.forgetting == pytest.approx(sum(forgotten) / (T - 1))
    forward = [a[j - 1][j] - b[j] for j in range(2, T + 1)]
    assert scores.forward_transfer == pytest.approx(sum(forward) / (T - 1))


def test_paper_cells_leave_open_what_they_do_not_measure() -> None:
    scores = full([0, 0, 0], [[50, None, None], [None, 60, None], [40, 65, 70]])
    assert scores.overall_performance == pytest.approx(175 / 3)
    assert scores.backward_transfer == pytest.approx((-10 + 5) / 2)
    assert scores.backward_transfer_over_all_tasks == pytest.approx(-5 / 3)
    assert scores.forgetting == pytest.approx((10 - 5) / 2)
    assert scores.forward_transfer is None


def test_forgetting_takes_the_best_of_the_measured_cells() -> None:
    scores = full([0, 0, 0], [[50, None, None], [80, 60, None], [40, 65, 70]])
    assert scores.forgetting == pytest.approx((80 - 40 + 60 - 65) / 2)


def test_joint_has_only_its_last_row() -> None:
    scores = full([1, 2], [[None, None], [80, 90]])
    assert scores.overall_performance == 85
    assert scores.backward_transfer is scores.backward_transfer_over_all_tasks is None
    assert scores.forgetting is scores.forward_transfer is None


def test_one_task_and_none() -> None:
    assert full([10], [[80]]).to_json() | {"tasks": [], "metrics": []} == {
        "tasks": [],
        "metrics": [],
        "base": [10],
        "matrix": [[80]],
        "overall_performance": 80,
        "backward_transfer": None,
        "backward_transfer_over_all_tasks": None,
        "forgetting": None,
        "forward_transfer": None,
    }
    assert ScoreMatrix().to_json()["overall_performance"] is None


def test_a_missing_cell_leaves_open_all_that_needs_it_and_no_more() -> None:
    cells: list[list[float | None]] = [[50, 20], [40, 60]]
    names = ["overall_performance", "backward_transfer", "forgetting", "forward_transfer"]
    needs = {(0, 0): names[1:3], (0, 1): names[3:], (1, 0): names[:3], (1, 1): names[:1]}
    for (i, j), open_ones in needs.items():
        holed = [list(row) for row in cells]
        holed[i][j] = None
        scores = full([0, 0], holed)
        assert [name for name in names if getattr(scores, name) is None] == open_ones


def test_a_task_without_test_rows_counts_nowhere() -> None:
    scores = full([10, 20, 30], [[50, 51, 52], [60, 61, 62], [40, 41, 70]])
    mixed = ScoreMatrix()
    for name, metric in (("a", "accuracy"), ("skill", None), ("b", "rouge_l"), ("c", "accuracy")):
        add_task(mixed, name, metric)
    for i, k in enumerate((0, 2, 3)):
        mixed.base[k] = scores.base[i]
        for j, m in enumerate((0, 2, 3)):
            mixed.matrix[k][m] = scores.matrix[i][j]
    # Before b came the skill, which trains nothing: its row holds what a's row holds.
    mixed.matrix[1] = list(mixed.matrix[0])
    for name in ("overall_performance", "backward_transfer", "backward_transfer_over_all_tasks", "forgetting"):
        assert getattr(mixed, name) == pytest.approx(getattr(scores, name))
    assert mixed.forward_transfer == pytest.approx(scores.forward_transfer)


def test_a_task_more_keeps_what_was_measured() -> None:
    scores = full([10, 20], [[50, 20], [40, 60]])
    add_task(scores, "late", "rouge_l")
    assert scores.base == [10, 20, None]
    assert scores.matrix == [[50, 20, None], [40, 60, None], [None, None, None]]
    assert scores.overall_performance is None


def test_json_there_and_back() -> None:
    scores = full([10, 20], [[50.5, None], [40, 60]])
    written = json.loads(json.dumps(scores.to_json()))
    assert list(written) == [
        "tasks",
        "metrics",
        "base",
        "matrix",
        "overall_performance",
        "backward_transfer",
        "backward_transfer_over_all_tasks",
        "forgetting",
        "forward_transfer",
    ]
    assert ScoreMatrix.from_json(written) == scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": [[1, 2]]}, "do not fit the 2 tasks"),
        ({"matrix": [[1, 2], [3]]}, "do not fit the 2 tasks"),
        ({"base": []}, "do not fit the 2 tasks"),
        ({"base": ["1", None]}, "neither a number nor null"),
        ({"tasks": None}, "not the scores of a run"),
        ({"matrix": 3}, "not the scores of a run"),
    ],
)
def test_a_file_that_is_no_scores(change: dict[str, object], message: str) -> None:
    content = full([10, 20], [[50, 20], [40, 60]]).to_json() | change
    with pytest.raises(InputError, match=f"runs/a/scores.json: .*{message}"):
        ScoreMatrix.from_json(content, "runs/a/scores.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "s: not the scores of a run, but null; the file was changed by hand or torn"),
        ([1], "s: not the scores of a run, but a list; the file was changed by hand or torn"),
        ({"tasks": [], "base": None, "matrix": []}, "s: not the scores of a run: metrics, base is missing or no list"),
        (
            {"tasks": ["a"], "metrics": ["x"], "base": [None], "matrix": [None]},
            "s: not the scores of a run: a row of the matrix is no list",
        ),
    ],
)
def test_what_is_no_matrix_is_a_sentence(content: Any, said: str) -> None:
    """Of null it was "'NoneType' object is not subscriptable is missing or no list"."""
    with pytest.raises(InputError) as caught:
        ScoreMatrix.from_json(content, "s")
    assert str(caught.value) == said


@pytest.mark.parametrize(("key", "value"), [("tasks", [None, None]), ("metrics", [3, "accuracy"])])
def test_names_that_are_none_are_refused(key: str, value: list[object]) -> None:
    """Found by fuzzing: they went into a table."""
    content = {"tasks": ["a", "b"], "metrics": ["accuracy", None], "base": [None, None], "matrix": [[None] * 2] * 2}
    assert ScoreMatrix.from_json(content).tasks == ["a", "b"]
    with pytest.raises(InputError, match="tasks and metrics are no names"):
        ScoreMatrix.from_json(content | {key: value})
