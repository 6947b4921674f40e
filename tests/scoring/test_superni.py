"""Super-NaturalInstructions' two numbers: their rules one by one, on texts small enough to count."""

import json
from pathlib import Path

import pytest

from seekr.scoring.superni import superni_accuracy, superni_rouge_l


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("The answer,  is: YES!\n", "the answer is yes", True),
        ("an apple", "apple", False),  # articles stay
        ("it's", "its", True),
        ("well-known", "well known", False),  # punctuation leaves no gap
        ("Ärger", "ärger", True),
        ("“ja”", "ja", False),  # only ASCII punctuation goes
        ("", "...", True),
        ("", "a", False),
    ],
)
def test_accuracy_leaves_out_case_and_punctuation(prediction: str, reference: str, equal: bool) -> None:
    assert superni_accuracy([prediction], [[reference]]) == 100 * equal


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        ("dogs running", "dog runs", (2, 2, 2)),  # stems: dog, run
        ("the CAT, sat", "a cat sat", (3, 3, 2)),
        ("c a b", "a b c", (3, 3, 2)),
        ("今天", "今天", (0, 0, 0)),  # of other scripts it knows no words
        ("", "a", (0, 1, 0)),
        ("", "", (0, 0, 0)),
    ],
)
def test_rouge_l_counts_stems_in_order(prediction: str, reference: str, words: tuple[int, int, int]) -> None:
    of_prediction, of_reference, common = words
    expected = 200 * common / (of_prediction + of_reference) if common else 0
    assert superni_rouge_l([prediction], [[reference]]) == pytest.approx(expected)


def test_the_best_reference_counts_and_rows_are_averaged() -> None:
    predictions, references = ["a b", "x"], [["q", "A. B"], ["y", "z"]]
    assert superni_accuracy(predictions, references) == 50
    assert superni_rouge_l(predictions, references) == pytest.approx(50)


def test_real_answers_are_right_against_themselves_and_not_against_others(shared: Path) -> None:
    rows = json.loads((shared / "data" / "superni" / "task875" / "test.json").read_text(encoding="utf-8"))
    answers = [row["answer"] for row in rows]
    assert superni_accuracy(answers, [[answer] for answer in answers]) == 100
    shifted = [[answer] for answer in answers[1:] + answers[:1]]
    right = sum(answer == other[0] for answer, other in zip(answers, shifted, strict=True))
    assert superni_accuracy(answers, shifted) == pytest.approx(100 * right / len(answers))
