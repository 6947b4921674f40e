"""The rows of a task that is scored: what has to fit together, and the mean over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from seekr.errors import InputError

Metric = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[str] | None], float]
"""(predictions, references of each row, prompts) -> 0..100; prompts may be None where a metric does not read them."""


def check_rows(
    predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> None:
    """Raise InputError unless there are rows, as many of each, every one with a reference."""
    counts = {"predictions": len(predictions), "references": len(references)}
    if prompts is not None:
        counts["prompts"] = len(prompts)
    if not predictions or len(set(counts.values())) > 1:
        given = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"{given}: as many of each, and at least one, are needed to score a task")
    for index, (prediction, rights) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise InputError(f"predictions[{index}]: must be a text, not {prediction!r}")
        if isinstance(rights, str) or not rights or not all(isinstance(right, str) for right in rights):
            raise InputError(f"references[{index}]: must be a list of one text or more, not {rights!r}")
    for index, prompt in enumerate(prompts or ()):
        if not isinstance(prompt, str):
            raise InputError(f"prompts[{index}]: must be a text, not {prompt!r}")


def list_of_rows(name: str, rows: Any) -> list[Any]:
    """What a user gives as `name`, as a list: an array, a column of a table or a generator holds rows too.

    Raises InputError for a single text, whose characters would be taken for rows, and for what holds none.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise InputError(f"{name}: must be a list of texts, not {repr(rows)[:60]}")
    return list(rows)


def mean_over_rows(score: Callable[[str, str], float]) -> Metric:
    """The metric that is the mean over the rows of `score(prediction, reference)`, the best of a row's references.

    It raises as `check_rows`.
    """

    def metric(
        predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
    ) -> float:
        check_rows(predictions, references, prompts)
        rows = zip(predictions, references, strict=True)
        return sum(max(score(prediction, right) for right in rights) for prediction, rights in rows) / len(predictions)

    metric.__doc__ = score.__doc__
    return metric
