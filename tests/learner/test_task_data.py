"""What a run knows of its rows before it begins."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from seekr import Task
from seekr.task_data import read_task


def test_cut_test_prompts_are_counted_exactly(tiny_model_folder: Path) -> None:
    """One that just fits is as long as one that was cut."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [{"prompt": "a " * count + "=", "answer": "b"} for count in range(1, 9)]
    whole = read_task(Task("x", train=rows, test=rows, max_new_tokens=2), tokenizer, 1000, seed=0)
    assert whole.cut_test_prompts == 0
    assert not whole.warnings()
    lengths = [len(prompt) for prompt in whole.test_prompts]
    room = sorted(lengths)[4]
    cut = read_task(Task("x", train=rows, test=rows, max_new_tokens=2), tokenizer, room + 2, seed=0)
    assert cut.cut_test_prompts == sum(length > room for length in lengths) > 0
    assert max(len(prompt) for prompt in cut.test_prompts) == room
    assert any("test prompts were cut" in warning for warning in cut.warnings())
