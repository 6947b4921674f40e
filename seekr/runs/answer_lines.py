"""What is kept of each answered test row: a line of JSON, and the score that follows from the lines of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from seekr.data.answers import AnswerKey
from seekr.data.example import Example
from seekr.data.task_data import TaskData
from seekr.data.tokenizing import decode
from seekr.modeling.generation import Generated
from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood, likelihood
from seekr.scoring.metrics import METRICS, find_metric, row_scores

Found = str | RowLikelihood
"""Of a test row: the answer that was generated, or how likely the right one is."""


def are_of(kept: Sequence[Mapping[str, Any]], test: Sequence[Example]) -> bool:
    """Whether kept lines are answers to these test rows."""
    return [(row["prompt"], row["references"]) for row in kept] == [(one.prompt_text, one.references) for one in test]


def lines_of(
    data: TaskData, given: Sequence[Generated | RowLikelihood], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """What is kept of each test row of a task, given what answered it."""
    rows = zip(data.test, data.keys, given, strict=True)
    return [_line(example, key, one, tokenizer) for example, key, one in rows]


def found_in(lines: Sequence[dict[str, Any]], data: TaskData) -> list[Found]:
    """What the lines of all test rows of a task say. Raises ValueError, KeyError or TypeError for another metric's."""
    return [_found(line, key) for line, key in zip(lines, data.keys, strict=True)]


def score_of(data: TaskData, found: Any) -> float:
    """The score of a task, 0 to 100, given what was found of each test row."""
    if data.task.metric == LIKELIHOOD:
        return likelihood(found)
    return find_metric(data.task.metric)(found, *_compared(data))


def row_scores_of(data: TaskData, found: Any) -> list[float] | None:
    """What each test row scores by itself; None where the score may be no mean over rows: a likelihood, and a function
    of the user's."""
    return row_scores(data.task.metric, found, *_compared(data)) if data.task.metric in METRICS else None


def _compared(data: TaskData) -> tuple[list[list[str]], list[str]]:
    return [question.key.references for question in data.asked], [example.prompt_text for example in data.test]


def _line(
    example: Example, key: AnswerKey | None, given: Generated | RowLikelihood, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """What is kept of a test row: `compared` and `generated` where those are not the references and the prediction."""
    if key is None or isinstance(given, RowLikelihood):
        return {"prompt": example.prompt_text, "references": example.references, **given._asdict()}
    ended = given.end is not None
    prediction = key.read(given.ids, tokenizer, ended=ended)
    line = {"prompt": example.prompt_text, "prediction": prediction, "references": example.references}
    if key.references != example.references:
        line["compared"] = key.references
    written = decode(given.ids, tokenizer, special=True)
    if key.form.cut(written, ended=ended) != written:
        line["generated"] = written
    return line


def _found(line: dict[str, Any], key: AnswerKey | None) -> Found:
    """What a line says of its row; an answer that was kept before forms were known is whatever was generated."""
    if key is None:
        return RowLikelihood(float(line["log_likelihood"]), int(line["answer_tokens"]))
    prediction = str(line["prediction"])
    return prediction if "generated" in line else key.form.cut(prediction)
