"""TRACE's numbers: those of the released evaluation, its rules one by one, and what is refused."""

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trace_definition
from hypothesis import given, settings
from hypothesis import strategies as st

import seekr
from seekr.errors import InputError
from seekr.scoring.metrics import METRICS
from seekr.scoring.trace import extract_answer, trace_metrics

TASKS = ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"]
HEADLINES = {  # (number, factor to 0..100), as SEEKR's show_results.py and TRACE's paper have them
    "trace_c_stance": ("accuracy", 100),
    "trace_fomc": ("accuracy", 100),
    "trace_meetingbank": ("rouge-L", 100),
    "trace_py150": ("similarity", 1),
    "trace_scienceqa": ("accuracy", 100),
    "trace_numglue_cm": ("accuracy", 100),
    "trace_numglue_ds": ("accuracy", 100),
    "trace_20minuten": ("sari", 1),
}


VERSIONS = ["plain", "reasoning"]
KEPT = json.loads(trace_definition.PATH.read_text(encoding="utf-8"))


def released(shared: Path, data: str, task: str) -> dict[str, Any]:
    """Rows of TRACE, and what the released evaluation prints of them."""
    rows = json.loads((shared / "golden" / "metrics" / f"{data}-{task}.json").read_text(encoding="utf-8"))
    return {name: rows[name] for name in ("predictions", "references", "prompts")} | {
        "numbers": rows["released_metrics"]
    }


def one(task: str, prediction: str, reference: str, number: str) -> float:
    return trace_metrics(task, [prediction], [reference], ["source"])[number]


def check_numbers(task: str, rows: dict[str, Any]) -> None:
    """trace_metrics has the golden numbers, and the task's metric the one that TRACE compares methods by."""
    found = seekr.trace_metrics(task, rows["predictions"], rows["references"], rows["prompts"])
    assert found.keys() == rows["numbers"].keys()
    assert found == pytest.approx(rows["numbers"], rel=0, abs=1e-9)

    metric = f"trace_{task.lower().replace('-', '_')}"
    name, factor = HEADLINES[metric]
    references = [[reference] for reference in rows["references"]]
    score = METRICS[metric](rows["predictions"], references, rows["prompts"])
    assert score == pytest.approx(factor * rows["numbers"][name], rel=0, abs=1e-7)
    assert 0 <= score <= 100


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("data", VERSIONS)
def test_the_numbers_are_those_of_the_definition(data: str, task: str) -> None:
    check_numbers(task, KEPT[f"{data}-{task}"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("data", VERSIONS)
def test_the_numbers_are_those_of_the_released_evaluation(shared: Path, data: str, task: str) -> None:
    check_numbers(task, released(shared, data, task))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("data", VERSIONS)
def test_the_numbers_in_the_repository_are_those_of_the_script(data: str, task: str) -> None:
    rows = trace_definition.rows_of(task, reasoning=data == "reasoning")
    kept = dict(KEPT[f"{data}-{task}"])
    assert kept.pop("numbers") == pytest.approx(trace_definition.numbers(task, **rows), rel=1e-12)
    assert kept == rows


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("data", VERSIONS)
def test_the_definition_has_the_released_numbers(shared: Path, data: str, task: str) -> None:
    rows = released(shared, data, task)
    expected = rows.pop("numbers")
    assert trace_definition.numbers(task, **rows) == pytest.approx(expected, rel=0, abs=1e-9)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = KEPT["reasoning-20Minuten"]
    mixed = list(zip(rows["predictions"], rows["references"], rows["prompts"], strict=True))
    random.Random(0).shuffle(mixed)
    numbers = trace_metrics("20Minuten", *map(list, zip(*mixed, strict=True)))
    assert numbers == pytest.approx(rows["numbers"], rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("  42\n", "42"),
        ("We add.\nAnswer: 42", "42"),
        ("We add.\nAnswer：42", "42"),
        ("想\n答案：42", "42"),
        ("想\n回答:42", "42"),
        ("42\nReasoning: we add.\nAnswer: 7", "42"),  # the answer comes first where a reasoning follows
        ("a\nAnswer: 1\nAnswer: 2", "1"),
        ("a\n答案: 1\nAnswer: 2", "2"),
        ("Answer: 42", "Answer: 42"),  # no line before it
        ("a：b", "a:b"),
        ("", " "),
        ("\nReasoning: because", " "),
        ("a\nAnswer:", " "),
    ],
)
def test_the_answer_is_taken_out_of_a_reasoning(prediction: str, answer: str) -> None:
    assert extract_answer("NumGLUE-cm", prediction) == answer
    assert extract_answer("FOMC", prediction) == answer[0]


def test_of_letter_tasks_the_first_character_is_the_answer() -> None:
    for task in ("C-STANCE", "FOMC", "ScienceQA"):
        assert one(task, "B B", "B", "accuracy") == 1
        assert one(task, "先想一想。\n答案：B", "B", "accuracy") == 1
        assert one(task, "Option B", "B", "accuracy") == 0
        assert one(task, "b", "B", "accuracy") == 0
        assert one(task, "", "B", "accuracy") == 0
    assert one("FOMC", "B", "B ", "accuracy") == 0  # references are compared as they are
    assert one("ScienceQA", "B", "B\nIt grows.", "accuracy") == 1
    assert one("NumGLUE-ds", "42 42", "42", "accuracy") == 0


def test_scienceqa_leaves_nothing_of_an_explanation() -> None:
    numbers = trace_metrics("ScienceQA", ["B\nIt grows in the light."], ["B\nIt grows in the light."])
    assert numbers == {"bleu-1": 0, "bleu-4": 0, "rouge-L": 0, "accuracy": 1}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("prediction", "reference"), [("", "ab"), ("a", ""), ("", "")])
def test_empty_texts_score_nothing(task: str, prediction: str, reference: str) -> None:
    numbers = trace_metrics(task, [prediction], [reference], ["a b c"])
    numbers.pop("sari", None)  # which says how well words were kept and deleted, too
    if task == "ScienceQA" and prediction == reference:  # the released evaluation makes one space of both
        assert numbers.pop("accuracy") == 1
    assert not any(numbers.values())


def test_an_empty_prediction_is_one_space_to_the_released_evaluation() -> None:
    assert one("Py150", "", "a b", "similarity") == 50
    assert one("NumGLUE-cm", "", " ", "accuracy") == 1


def test_bleu_is_the_geometric_mean_of_precisions_times_brevity() -> None:
    right = "the cat sat on the mat. it slept"
    answer = "the the cat sat on a mat"  # words: 7 against 8; matched 1-grams: the the cat sat on mat
    brevity = math.exp(1 - 8 / 7)
    assert one("MeetingBank", answer, right, "bleu-1") == pytest.approx(brevity * 6 / 7)
    # 2-grams: the cat, cat sat, sat on; 3-grams: the cat sat, cat sat on; 4-grams: the cat sat on
    expected = brevity * (6 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25
    assert one("MeetingBank", answer, right, "bleu-4") == pytest.approx(expected)
    assert one("MeetingBank", "quite other words here", right, "bleu-4") == 0
    assert one("MeetingBank", "the mat", right, "bleu-4") < 1e-50  # unsmoothed: nothing of what is missing is made up


def longest_common(first: list[str], second: list[str]) -> set[str]:
    """The words of a longest common subsequence; texts of the test have one only."""
    best = max(
        (
            pick
            for size in range(len(first) + 1)
            for pick in itertools.combinations(range(len(first)), size)
            if _is_subsequence([first[i] for i in pick], second)
        ),
        key=len,
    )
    return {first[i] for i in best}


def _is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("a b c", "a x b y c"),
        ("a b. c d", "a c. b d"),
        ("a a a b", "a b"),  # distinct words are counted
        ("ä. 你 好", "ä 你. 好"),
        ("x", "a b"),
    ],
)
def test_rouge_l_is_the_union_over_sentences_of_distinct_common_words(answer: str, right: str) -> None:
    sentences = [[part.split() for part in text.split(".")] for text in (answer, right)]
    common = {word for one in sentences[0] for other in sentences[1] for word in longest_common(one, other)}
    distinct = [len({word for sentence in text for word in sentence}) for text in sentences]
    precision, recall = len(common) / distinct[0], len(common) / distinct[1]
    expected = 2 * precision * recall / (precision + recall) if common else 0
    assert one("MeetingBank", answer, right, "rouge-L") == pytest.approx(expected, abs=1e-7)


def test_rouge_l_of_full_stops_alone_is_0() -> None:
    assert one("MeetingBank", "...", "a b", "rouge-L") == 0
    assert one("MeetingBank", "a b", "...", "rouge-L") == 0


def test_a_long_answer_without_a_full_stop_does_not_end_a_run() -> None:
    """The package `rouge` recurses once a word: 1200 words are above Python's limit."""
    text = " ".join(f"w{index}" for index in range(600))
    assert one("MeetingBank", f"{text} {text}", text, "rouge-L") == pytest.approx(1, abs=1e-6)


TEXTS = st.text(alphabet="ab(é ", max_size=10)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_similarity_is_the_rounded_share_of_common_characters(answer: str, right: str) -> None:
    kept = answer.strip() or " "
    row = [0] * (len(right) + 1)
    for char in kept:
        before, row = row, [0]
        for j, other in enumerate(right):
            row.append(before[j] + 1 if char == other else max(before[j + 1], row[j]))
    expected = 100 * 2 * row[-1] / (len(kept) + len(right)) if right else 0
    similarity = one("Py150", answer, right, "similarity")
    assert similarity == int(similarity)
    assert abs(similarity - expected) <= 0.5 + 1e-9


def test_py150_fills_in_literals() -> None:
    assert one("Py150", "x = <NUM_LIT> + <NUM_LIT:7> + <STR_LIT>", "x = 0 + 7 + ", "similarity") >= 98  # one space
    assert one("Py150", "f(<STR_LIT:a b>, <CHAR_LIT>)", "f(a b, )", "similarity") == 100
    assert one("Py150", "<STR_LIT>", "<STR_LIT>", "similarity") == 0  # nothing is left of either


def test_of_several_references_the_best_counts() -> None:
    assert METRICS["trace_numglue_cm"](["ten"], [["10", "ten"]], None) == 100
    assert trace_metrics("NumGLUE-cm", ["ten", "4"], [["10", "ten"], "5"]) == {"accuracy": 0.5}


def test_what_does_not_fit_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="unknown task 'CSTANCE'; did you mean 'C-STANCE'"):
        trace_metrics("CSTANCE", ["A"], ["A"])
    with pytest.raises(InputError, match="2 predictions, 1 references: as many"):
        trace_metrics("FOMC", ["A", "B"], ["A"])
    with pytest.raises(InputError, match="1 predictions, 1 references, 2 prompts"):
        trace_metrics("20Minuten", ["A"], ["A"], ["x", "y"])
    with pytest.raises(InputError, match="0 predictions, 0 references"):
        trace_metrics("FOMC", [], [])
    with pytest.raises(InputError, match="prompts are needed"):
        trace_metrics("20Minuten", ["A"], ["A"])
    with pytest.raises(InputError, match=r"predictions\[1\]: must be a text, not None"):
        trace_metrics("FOMC", ["A", None], ["A", "B"])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"references\[0\]: must be a list of one text or more"):
        trace_metrics("FOMC", ["A"], [[]])


@pytest.mark.parametrize("make", [list, tuple, np.array, iter], ids=["list", "tuple", "array", "generator"])
def test_rows_need_not_be_lists(make: Callable[[list[str]], Any]) -> None:
    # Arrays ended in "truth value is ambiguous", generators in "has no len()".
    numbers = trace_metrics("20Minuten", make(["a b", "c d"]), make(["a b", "x"]), make(["a b c", "c d"]))
    assert numbers == trace_metrics("20Minuten", ["a b", "c d"], ["a b", "x"], ["a b c", "c d"])
    several = trace_metrics("FOMC", make(["A", "B"]), [make(["C", "A"]), make(["C"])])
    assert several == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("FOMC", "AB", ["A", "B"]), "predictions"),  # its characters were taken for rows
        (("FOMC", ["A", "B"], "AB"), "references"),
        (("FOMC", None, ["A"]), "predictions"),
        (("FOMC", ["A"], None), "references"),
        (("FOMC", ["A"], [5]), r"references\[0\]"),
        (("FOMC", ["A"], [None]), r"references\[0\]"),
        (("20Minuten", ["A"], ["A"], [None]), r"prompts\[0\]"),
        (("20Minuten", ["A"], ["A"], "A"), "prompts"),
        ((["FOMC"], ["A"], ["A"]), "unknown task"),
    ],
)
def test_what_holds_no_texts_is_one_clear_error(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        trace_metrics(*arguments)
    assert "\n" not in str(caught.value)
