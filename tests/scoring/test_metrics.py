"""Metrics against their definitions, written out."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr import Task, learn
from seekr.builtin import builtin_model, builtin_rows
from seekr.errors import InputError
from seekr.scoring.metrics import METRICS, accuracy, edit_similarity, find_metric, rouge_l, row_scores

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


@pytest.fixture
def my_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics_of_mine.py").write_text(
        "def starts(predictions, references, prompts):\n"
        "    right = [p.startswith(r[0]) and q != 'no' for p, r, q in zip(predictions, references, prompts)]\n"
        "    return 100 * sum(right) / len(right)\n"
        "def wrong(*_):\n    return 101\n"
        "def none(*_):\n    return None\n"
        "def nan(*_):\n    return float('nan')\n"
        "def broken(*_):\n    return missing\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("my_metrics")
def test_a_metric_of_the_users_own_is_a_function_of_a_module() -> None:
    rows = ["ab", "b", "ac"], [["a"], ["a"], ["a"]], ["yes", "yes", "no"]
    assert find_metric("metrics_of_mine:starts")(*rows) == pytest.approx(100 / 3)
    assert row_scores("metrics_of_mine:starts", *rows) == [100, 0, 0]
    assert Task("a", train=["x"], metric="metrics_of_mine:starts").metric == "metrics_of_mine:starts"


@pytest.mark.usefixtures("my_metrics")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("metrics_of_mine:start", "cannot be imported (AttributeError"),
        ("metric_of_mine:starts", "cannot be imported (ModuleNotFoundError"),
        ("metrics_of_mine:", "unknown metric"),
        (":starts", "unknown metric"),
        ("metrics_of_mine:number", "is no function"),
        (3, "unknown metric 3"),
        (None, "unknown metric None"),
    ],
)
def test_a_metric_that_is_none_is_refused_in_one_line(name: Any, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Task("a", train=["x"], metric=name)


@pytest.mark.usefixtures("my_metrics")
@pytest.mark.parametrize("name", ["wrong", "none", "nan"])
def test_what_a_users_metric_gives_is_a_number_from_0_to_100(name: str) -> None:
    with pytest.raises(InputError, match="a score is a number from 0 to 100"):
        find_metric(f"metrics_of_mine:{name}")(["a"], [["a"]], ["a"])


@pytest.mark.usefixtures("my_metrics")
@pytest.mark.parametrize(("name", "said"), [("broken", "failed (NameError"), ("wrong", "gave 101")])
def test_a_users_metric_that_fails_was_a_traceback_once_the_task_was_trained(
    tmp_path: Path, name: str, said: str
) -> None:
    rows = builtin_rows("span", "train", seed=0, count=2)
    task = Task("a", train=rows, test=rows, metric=f"metrics_of_mine:{name}")
    with pytest.raises(InputError, match=re.escape(said)):
        learn(model=builtin_model(), tasks=[task], output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
