"""Metrics against their definitions, written out."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr.scoring import METRICS, accuracy, edit_similarity, rouge_l

TEXTS = st.text(alphabet="ab c,.Ä", max_size=12)


def common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        previous = row
        row = [0]
        for j, other in enumerate(second):
            row.append(previous[j] + 1 if item == other else max(previous[j + 1], row[j]))
    return row[-1]


def test_accuracy_trims_and_takes_any_reference() -> None:
    predictions = [" A\n", "b", "C", "", "d"]
    references = [["A"], ["B"], ["x", "C "], ["  "], ["d e"]]
    assert accuracy(predictions, references) == pytest.approx(60.0)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_edit_similarity_is_the_share_of_characters_kept(first: str, second: str) -> None:
    a, b = list(first.strip()), list(second.strip())
    expected = 100.0 * 2 * common(a, b) / (len(a) + len(b)) if a or b else 100.0
    assert edit_similarity([first], [[second]]) == pytest.approx(expected)


@settings(deadline=None)
@given(st.text(alphabet="ab1 _,.-\nA", max_size=20), st.text(alphabet="ab1 _,.-\nA", max_size=20))
def test_rouge_l_is_the_f_measure_of_the_common_words(prediction: str, reference: str) -> None:
    a, b = (re.findall("[a-z0-9]+", text.lower()) for text in (prediction, reference))
    kept = common(a, b)
    expected = 100.0 * 2 * kept / (len(a) + len(b)) if kept else 0.0
    assert rouge_l([prediction], [[reference]]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        ("今天天气好", "今天 天气,不好", (5, 6, 5)),  # one word a character; the space and the comma are none
        ("für Ärger", "FÜR ärger!", (2, 2, 2)),
        ("fu\u0308r", "für", (1, 1, 1)),  # the same letter, composed otherwise
        ("हिन्दी में", "हिन्दी", (2, 1, 1)),  # vowel signs are part of their word
        ("Москва слезам", "москва", (2, 1, 1)),
        ("naïve 今x", "naïve 今 y", (3, 3, 2)),
    ],
)
def test_rouge_l_counts_words_of_every_script(prediction: str, reference: str, words: tuple[int, int, int]) -> None:
    of_prediction, of_reference, kept = words
    assert rouge_l([prediction], [[reference]]) == pytest.approx(200.0 * kept / (of_prediction + of_reference))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_runs_from_0_to_100_takes_the_best_reference_and_the_mean(metric) -> None:  # type: ignore[no-untyped-def]
    assert metric(["a b c"], [["a b c"]]) == pytest.approx(100.0)
    assert metric(["xyz"], [["abc"]]) == 0.0
    assert metric(["a b"], [["z z", "a b"]]) == pytest.approx(100.0)
    assert metric(["a b", "x"], [["a b"], ["y"]]) == pytest.approx(50.0)
    for wrong in (([], []), (["a"], [["a"], ["b"]])):
        with pytest.raises(ValueError, match="predictions"):
            metric(*wrong)
