"""The built-in tasks: what they ask, what they answer, and that no split knows another."""

import re

import pytest
from builtin_tokenizer import make_tokenizer

from seekr.builtin import TASKS, builtin_rows
from seekr.builtin.tasks import Split
from seekr.errors import InputError

SPLITS: tuple[Split, ...] = ("train", "eval", "test")


def solve(prompt: str) -> str:
    """Answers a prompt from its text alone, in other ways than the tasks were made."""
    task, asked = re.fullmatch(r"(\w+): (.*)=", prompt).groups()  # type: ignore[union-attr]
    match task:
        case "lookup":
            return re.search(rf"{asked[-1]}(\d\d)", asked).group(1)  # type: ignore[union-attr]
        case "span":
            return re.sub(r".*\[|\].*", "", asked)
        case "sort":
            return "".join(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter in asked)
        case "add":
            return str(int(asked[:2]) + int(asked[3:]))
        case "upper":
            return "".join(chr(ord(letter) - 32) for letter in asked)
        case "reverse":
            return "".join(asked[-place] for place in range(1, len(asked) + 1))
    raise AssertionError(f"no solution for {task}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [0, 7])
def test_answers_are_right(task: str, seed: int) -> None:
    for split in SPLITS:
        for row in builtin_rows(task, split, seed=seed, count=150):
            assert row["answer"] == solve(row["prompt"])


@pytest.mark.parametrize("task", TASKS)
def test_no_prompt_stands_in_two_splits_of_whatever_seed(task: str) -> None:
    prompts = {
        split: {row["prompt"] for seed in range(4) for row in builtin_rows(task, split, seed=seed, count=count)}
        for split, count in {"train": 1500, "eval": 200, "test": 200}.items()
    }
    assert not prompts["train"] & prompts["eval"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["eval"] & prompts["test"]


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_different_and_a_function_of_seed_and_split(task: str) -> None:
    rows = builtin_rows(task, "train", seed=3, count=1500)
    assert len({row["prompt"] for row in rows}) == 1500
    assert rows == builtin_rows(task, "train", seed=3, count=1500)
    assert rows[:50] == builtin_rows(task, "train", seed=3, count=50)
    assert rows != builtin_rows(task, "train", seed=4, count=1500)


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_short(task: str) -> None:
    tokenizer = make_tokenizer(128)
    for row in builtin_rows(task, "train", seed=0, count=300):
        assert len(tokenizer(row["prompt"])["input_ids"]) <= 48
        assert len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) <= 8


def test_rows_that_do_not_exist_are_refused_in_one_line() -> None:
    for task, split, count in [("sorts", "train", 1), ("sort", "dev", 1), ("add", "test", 5000)]:
        with pytest.raises(InputError) as caught:
            builtin_rows(task, split, seed=0, count=count)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
