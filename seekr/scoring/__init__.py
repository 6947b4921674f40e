"""Answers to numbers, and numbers to what was kept and what was lost."""

from seekr.scoring.matrix import ScoreMatrix
from seekr.scoring.metrics import METRICS, Metric, accuracy, edit_similarity, rouge_l

__all__ = ["METRICS", "Metric", "ScoreMatrix", "accuracy", "edit_similarity", "rouge_l"]
