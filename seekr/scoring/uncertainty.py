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


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of `values`, by their sample standard deviation; None for fewer than two."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95% interval of the mean of `values`, by Student's t; None for fewer than two."""
    error, freedom = standard_error(values), len(values) - 1
    if error is None:
        return None
    return error * (_STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96 + 2.4 / freedom)
