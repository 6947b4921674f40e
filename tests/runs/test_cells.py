"""The score book: what of a test row reaches its metric."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from seekr.data.answers import AnswerKey, Asked
from seekr.data.encoding import EncodingSummary
from seekr.data.example import Example
from seekr.data.task import Task
from seekr.data.task_data import TaskData
from seekr.runs.scores import ScoreBook
from seekr.scoring.metrics import METRICS


@pytest.mark.parametrize("metric", ["sari", "trace_20minuten"])
def test_kept_answers_are_scored_against_their_prompts_and_references(tmp_path: Path, metric: str) -> None:
    test = [Example("a b c", "a b", ["a b", "a"], "row 1"), Example("d e", "d", ["d"], "row 2")]
    answers = ["a c", "e"]
    lines = [
        json.dumps({"prompt": row.prompt_text, "prediction": answer, "references": row.references})
        for row, answer in zip(test, answers, strict=True)
    ]
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "0-0.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = [Asked(np.arange(3), AnswerKey(row.references)) for row in test]
    data = TaskData(Task("a", train=[], metric=metric), [], EncodingSummary.of([]), test, [], asked)

    book = ScoreBook(SimpleNamespace(run=tmp_path, tasks=[data], columns={0: data}, joint=True))  # type: ignore[arg-type]

    assert book.scores == {(0, 0): METRICS[metric](answers, [["a b", "a"], ["d"]], ["a b c", "d e"])}
