"""Small data folders that look like a benchmark's: every task with train, eval and test."""

import json
from collections.abc import Sequence
from pathlib import Path


def rows(task: str, split: str, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{task} {split} {i}:", "answer": f"a{i % 3}"} for i in range(count)]


def write_tasks(folder: Path, names: Sequence[str], splits: Sequence[str] = ("train", "eval", "test")) -> Path:
    for name in names:
        for split in splits:
            path = folder / name / f"{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows(name, split, 6 if split == "train" else 2)), encoding="utf-8")
    return folder
