import numpy as np
import pytest

from seekr.scoring.uncertainty import error_of_rows, half_interval, half_of_difference, standard_error


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


@pytest.mark.parametrize(("one", "other"), [(2, 2), (3, 3), (2, 5), (40, 45)])
def test_difference_is_welchs(one, other):
    """Degrees of freedom by Welch and Satterthwaite, rounded down."""
    draw = np.random.default_rng(one)
    samples = [draw.normal(50, 9, one).tolist(), draw.normal(40, 3, other).tolist()]
    parts = [np.var(values, ddof=1) / len(values) for values in samples]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, samples, strict=True))
    expected = student(int(freedom)) * np.sqrt(sum(parts))
    assert half_of_difference(*samples) == pytest.approx(expected, rel=2e-3)
    assert half_of_difference([3.0, 3.0], [2.0, 2.0]) == 0


def test_one_value_has_no_error():
    assert standard_error([3.0]) is None
    assert half_interval([]) is None


@pytest.mark.parametrize("rows", [2, 5, 40, 80, 1000])
@pytest.mark.parametrize("score", [0.0, 100.0, 100 / 3, -12.5])
def test_rows_that_are_all_alike_are_not_certain(rows, score):
    """A few rows that were all wrong read "0.0 ± 0.0". Twice the error is the share of other rows, at 100 points each,
    of which so many draws would have shown one in 95 of 100 cases."""
    share = 2 * error_of_rows([score] * rows) / 100
    assert (1 - share) ** rows == pytest.approx(0.05)
    assert error_of_rows([score] * rows) > error_of_rows([score] * (rows + 1))


def test_rows_that_differ_have_their_standard_error():
    values = [0.0, 100.0, 50.0]
    assert error_of_rows(values) == standard_error(values)
    assert error_of_rows([3.0]) is None


def test_seeds_that_are_all_alike_have_no_interval():
    assert half_interval([100.0] * 3) is None
    assert half_interval([0.1 + 0.2, 0.3, 0.3]) is None
