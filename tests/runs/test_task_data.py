"""What a run knows of its rows before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from seekr import Task
from seekr.data.task_data import read_task
from seekr.errors import InputError


def test_cut_test_prompts_are_counted_exactly(tiny_model_folder: Path) -> None:
    """One that just fits is as long as one that was cut."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [{"prompt": "a " * count + "=", "answer": "b"} for count in range(1, 9)]
    whole = read_task(Task("x", train=rows, test=rows, max_new_tokens=2), tokenizer, 1000, seed=0)
    assert whole.cut_test_prompts == 0
    assert not any("cut" in warning for warning in whole.warnings())
    lengths = [len(prompt) for prompt in whole.test_prompts]
    room = sorted(lengths)[4]
    cut = read_task(Task("x", train=rows, test=rows, max_new_tokens=2), tokenizer, room + 2, seed=0)
    assert cut.cut_test_prompts == sum(length > room for length in lengths) > 0
    assert max(len(prompt) for prompt in cut.test_prompts) == room
    assert any("test prompts were cut" in warning for warning in cut.warnings())


def test_answers_that_cannot_be_given_are_counted(tiny_model_folder: Path) -> None:
    """Every row scored 0, and nothing was said."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [{"prompt": "a", "answer": "b" * count} for count in (2, 40, 50)]
    rows += [{"prompt": "a", "answer": ["c" * 60, "d"]}, {"prompt": "a", "answer": "e", "references": ["f" * 31]}]
    task = Task("x", train=rows, test=rows)
    (said,) = [line for line in read_task(task, tokenizer, 100, seed=0).warnings() if "max_new_tokens" in line]
    # A blank is generated before each: 41 and 51 tokens, and the 32 of the last row fit without their end.
    assert said.startswith("2 of 5 test answers take more than the 32 tokens of max_new_tokens and cannot be right")
    assert "(the longest takes 51); set max_new_tokens: 52" in said
    enough = Task("x", train=rows, test=rows, max_new_tokens=52)
    assert not any("max_new_tokens" in line for line in read_task(enough, tokenizer, 100, seed=0).warnings())


def test_no_number_of_new_tokens_takes_what_the_references_need(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [{"prompt": "a", "answer": ["b" * count, "c"]} for count in (2, 40, 50)]
    settled = read_task(Task("x", train=rows[:1], test=rows, max_new_tokens=None), tokenizer, 100, seed=0)
    assert settled.max_new_tokens == settled.identity["max_new_tokens"] == 51 + 1 + 5
    assert not any("max_new_tokens" in warning for warning in settled.warnings())
    unscored = read_task(Task("x", train=rows[:1], max_new_tokens=None), tokenizer, 100, seed=0)
    assert unscored.max_new_tokens == 3 + 1 + 3
    with pytest.raises(InputError, match="max_new_tokens 57 leaves no room for a prompt in the 57 tokens"):
        read_task(Task("x", train=rows, test=rows, max_new_tokens=None), tokenizer, 57, seed=0)


@pytest.mark.parametrize("metric", ["accuracy", "likelihood"])
def test_one_file_for_train_and_test_was_scored_without_a_word(metric: str, tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [{"prompt": f"a{number}", "answer": "b"} for number in range(4)]
    said = "test rows are trained on too, so that their score is no measure of new ones"
    task = Task("x", train=rows, test=[*rows[2:], {"prompt": "a0", "answer": "c"}], metric=metric)
    assert read_task(task, tokenizer, 100, seed=0).warnings() == [f"2 of 3 {said}"]
    apart = Task("x", train=rows[:2], test=rows[2:], metric=metric)
    assert read_task(apart, tokenizer, 100, seed=0).warnings() == []
