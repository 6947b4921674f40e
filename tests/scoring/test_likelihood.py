"""The likelihood of right answers as a score."""

import math

import pytest

from seekr.data.task import Task
from seekr.errors import InputError
from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood, likelihood
from seekr.scoring.metrics import METRICS, row_scores


def test_every_answer_token_weighs_the_same() -> None:
    """The geometric mean of the probabilities of all answer tokens, whichever rows they are in."""
    probabilities = [[0.5, 0.25], [1.0], [0.1, 0.2, 0.3, 0.4]]
    rows = [RowLikelihood(sum(map(math.log, row)), len(row)) for row in probabilities]
    expected = 100 * math.prod(p for row in probabilities for p in row) ** (1 / 7)
    assert likelihood(rows) == pytest.approx(expected, rel=1e-12)
    assert likelihood(rows[::-1]) == likelihood(rows)
    assert likelihood([*rows, RowLikelihood(0.0, 0)]) == likelihood(rows)
    assert likelihood([RowLikelihood(0.0, 3)]) == 100


def test_a_task_without_answer_tokens_has_no_score() -> None:
    with pytest.raises(InputError, match="2 rows hold no answer token"):
        likelihood([RowLikelihood(0.0, 0), RowLikelihood(0.0, 0)])


def test_it_is_a_metric_of_tasks_and_none_of_predictions() -> None:
    assert LIKELIHOOD not in METRICS
    assert Task("a", train="a.json", metric="likelihood").metric == LIKELIHOOD
    with pytest.raises(InputError, match="unknown metric 'likelyhood'; did you mean 'likelihood'"):
        Task("a", train="a.json", metric="likelyhood")
    with pytest.raises(InputError, match="row_scores: likelihood is how likely a model finds right answers"):
        row_scores("likelihood", ["a"], [["a"]])
