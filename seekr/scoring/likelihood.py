"""How likely a model finds the right answers: the metric for which no text is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from seekr.errors import InputError

LIKELIHOOD = "likelihood"
"""What a task's `metric` says for it. It is none of `METRICS`: those are made from predictions."""


class RowLikelihood(NamedTuple):
    """Of a row's right answer: the sum of its tokens' log-probabilities, in nats, and how many tokens these are."""

    log_likelihood: float
    answer_tokens: int


def likelihood(rows: Sequence[RowLikelihood]) -> float:
    """100 · exp(−mean cross-entropy an answer token), 0..100: 100 over the perplexity of the right answers.

    The mean is over the answer tokens of all rows together, so that a long answer weighs more than a short one.
    Raises InputError where there is no answer token.
    """
    tokens = sum(row.answer_tokens for row in rows)
    if not tokens:
        raise InputError(f"{len(rows)} rows hold no answer token; at least one is needed to score a task")
    return 100.0 * math.exp(math.fsum(row.log_likelihood for row in rows) / tokens)
