"""Answers to numbers, and numbers to what was kept and what was lost."""

from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood, likelihood
from seekr.scoring.matrix import ScoreMatrix
from seekr.scoring.metrics import METRICS, accuracy, edit_similarity, rouge_l, row_scores
from seekr.scoring.rows import Metric
from seekr.scoring.trace import trace_metrics

__all__ = [
    "LIKELIHOOD",
    "METRICS",
    "Metric",
    "RowLikelihood",
    "ScoreMatrix",
    "accuracy",
    "edit_similarity",
    "likelihood",
    "rouge_l",
    "row_scores",
    "trace_metrics",
]
