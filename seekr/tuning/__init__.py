"""Choosing settings honestly: a grid of candidates, scored on eval rows and never on test, in one table."""

from seekr.tuning.run import tune as tune
