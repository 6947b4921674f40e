import numpy as np
import pytest

from seekr.scoring.uncertainty import half_interval, standard_error


def student(freedom: int) -> float:
    """The 97.5% point of Student's t, by integrating its density on a grid of sinh: the tails are heavy."""
    t = np.sinh(np.linspace(-16, 16, 400_001))
    density = (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    share = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))])
    return float(np.interp(0.975, share / share[-1], t))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 30, 31, 32, 61, 200])
def test_interval_is_students(count):
    values = np.random.default_rng(count).normal(50, 9, count).tolist()
    error = np.std(values, ddof=1) / np.sqrt(count)
    assert standard_error(values) == pytest.approx(error)
    assert half_interval(values) == pytest.approx(student(count - 1) * error, rel=2e-3)


def test_one_value_has_no_error():
    assert standard_error([3.0]) is None
    assert half_interval([]) is None
