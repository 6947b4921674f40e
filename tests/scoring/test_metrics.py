"""Metrics against their definitions, written out."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr.errors import InputError
from seekr.scoring import METRICS, accuracy, edit_similarity, rouge_l, row_scores

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


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_runs_from_0_to_100_takes_the_best_reference_and_the_mean(name: str) -> None:
    metric, sources = METRICS[name], ["p q r", "p q r"]
    assert metric(["b"], [["b"]], sources[:1]) == pytest.approx(100.0)
    assert metric(["p q r"], [["b"]], sources[:1]) < 70.0  # SARI takes it well that nothing was added
    assert metric(["b", "p q r"], [["b"], ["z"]], sources) == pytest.approx(
        (100.0 + metric(["p q r"], [["z"]], sources[:1])) / 2
    )
    if name != "sari" and name != "trace_20minuten":  # which weigh all references of a row together
        assert metric(["b"], [["z", "b"]], None) == pytest.approx(100.0)
        assert metric(["p q r"], [["b"]], None) == 0.0
    for wrong in (([], [], []), (["a"], [["a"], ["b"]], ["x"]), (["a"], [["a"]], []), (["a"], [[]], ["x"])):
        with pytest.raises(InputError, match=r"predictions|references"):
            metric(*wrong)


TABLES = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=2), TEXTS), min_size=1, max_size=4)


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=30)
@given(rows=TABLES)
def test_every_metric_is_the_mean_of_its_rows_in_any_order(name: str, rows: list[tuple[str, list[str], str]]) -> None:
    predictions, references, prompts = map(list, zip(*rows, strict=True))
    scores = row_scores(name, predictions, references, prompts)
    assert len(scores) == len(rows)
    assert all(0 <= score <= 100 + 1e-9 for score in scores)
    assert METRICS[name](predictions, references, prompts) == pytest.approx(sum(scores) / len(rows), abs=1e-9)
    backwards = METRICS[name](predictions[::-1], references[::-1], prompts[::-1])
    assert backwards == pytest.approx(sum(scores) / len(rows), abs=1e-9)


def test_row_scores_of_an_unknown_metric_or_of_rows_that_do_not_fit() -> None:
    assert row_scores("trace_fomc", ["B because", "C"], [["B"], ["A"]]) == [100.0, 0.0]
    with pytest.raises(InputError, match="unknown metric 'trace_formc'; did you mean 'trace_fomc'"):
        row_scores("trace_formc", ["A"], [["A"]])
    with pytest.raises(InputError, match="1 predictions, 2 references"):
        row_scores("accuracy", ["A"], [["A"], ["B"]])
    with pytest.raises(InputError, match="prompts are needed"):
        row_scores("sari", ["A"], [["A"]])


def test_importing_the_metrics_imports_none_of_their_libraries() -> None:
    """`seekr --help` imports them to check names."""
    libraries = ["nltk", "rouge", "rouge_score", "sacrebleu", "numpy"]
    code = f"import sys, seekr.scoring; print([name for name in {libraries!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
