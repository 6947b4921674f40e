"""Answers to numbers, and numbers to what was kept and what was lost."""

from seekr.scoring.likelihood import LIKELIHOOD as LIKELIHOOD
from seekr.scoring.likelihood import RowLikelihood as RowLikelihood
from seekr.scoring.likelihood import likelihood as likelihood
from seekr.scoring.matrix import ScoreMatrix as ScoreMatrix
from seekr.scoring.metrics import METRICS as METRICS
from seekr.scoring.metrics import row_scores as row_scores
from seekr.scoring.trace import trace_metrics as trace_metrics
