"""One way to say a task in words, wherever a command line takes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from seekr import InputError
from seekr.config.task_words import parse_task, task_keys


def test_values_are_yaml_and_paths_are_as_they_stand() -> None:
    text = "a=b/c.json,test=1.json,test_limit=10,separator=,chat_template_kwargs={x: [1, 2], y: no},learn=false"
    assert parse_task(text) == {
        "name": "a",
        "path": "b/c.json",
        "test": "1.json",
        "test_limit": 10,
        "separator": "",
        "chat_template_kwargs": {"x": [1, 2], "y": False},
        "learn": False,
    }
    assert task_keys(["separator=", "answers=last"]) == {"separator": "", "answers": "last"}


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b,c", "a=b,name=c", "a=b,max_samples=3", "a=b,test_limit=["])
def test_what_is_no_task_is_told_with_all_of_it(text: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_task(text)
    assert str(raised.value).startswith(f"--task {text!r}: ")


def test_a_shown_row_takes_the_keys_of_a_task_but_its_splits(tmp_path: Path) -> None:
    for word in ("train=x.json", "test=x.json"):
        with pytest.raises(InputError, match="unknown key"):
            task_keys([word], without=("train", "test", "eval"))
