"""How sure a mean is: over the rows of a task by its standard error, over seeds by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5% point of Student's t by the degrees of freedom, from 1."""
_NOTHING = 1e-9
"""A standard error that is 0 but for rounding."""


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of `values`, by their sample standard deviation; None for fewer than two."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def error_of_rows(scores: Sequence[float]) -> float | None:
    """The standard error of a mean over test rows, of which each may be 100 points from another; None for fewer than
    two. Rows that are all alike have a spread of 0, which says nothing: see `error_of_alike`."""
    error = standard_error(scores)
    return None if error is None else error if error > _NOTHING else error_of_alike(len(scores))


def error_of_alike(rows: int) -> float:
    """In place of the standard error of so many rows that all score alike: half of what they leave open.

    Were more than a share of 1 − 0.05^(1/rows) of all rows otherwise (about 3 / rows), 95 of 100 draws would show one.
    """
    return 100 * (1 - 0.05 ** (1 / rows)) / 2


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95% interval of the mean of `values`, by Student's t; None for fewer than two, and where all are
    alike, so that nothing is known of their spread."""
    error = standard_error(values)
    return None if error is None or error <= _NOTHING else error * _student(len(values) - 1)


def half_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Half of the 95% interval of the difference of two means, of two values or more each, by Welch's t."""
    parts = [(stdev(values) ** 2 / len(values), len(values) - 1) for values in (one, other)]
    variance = sum(part for part, _ in parts)
    if variance <= _NOTHING**2:
        return 0.0
    return math.sqrt(variance) * _student(variance**2 / sum(part**2 / freedom for part, freedom in parts))


def _student(freedom: float) -> float:
    """The 97.5% point; for degrees between whole ones, of the lower one."""
    return _STUDENT[int(freedom) - 1] if freedom < len(_STUDENT) + 1 else 1.96 + 2.4 / freedom
