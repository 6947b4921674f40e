"""The guard of general ability: rows that no task trains on, scored by their likelihood before and after every task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from seekr.config.schema import Config, make_general
from seekr.data.encoding import EncodingSummary
from seekr.data.finished import FinishedTask
from seekr.data.task import with_template_kwargs
from seekr.data.task_data import TaskData, read_task
from seekr.scoring.cells import GENERAL


def read_guard(
    config: Config, tokenizer: PreTrainedTokenizerBase, max_length: int, predictions: Path
) -> TaskData | None:
    """The rows of the key `general`, None = it is not set. A file that is gone is made up for by the answers to it.

    Raises InputError with file and row.
    """
    if (task := make_general(config)) is None:
        return None
    task = with_template_kwargs([task], config.chat_template_kwargs)[0]
    measured = FinishedTask({"test": None}, EncodingSummary.of([]), predictions, GENERAL)
    return read_task(task, tokenizer, max_length, seed=config.seed, finished=measured)


def guard_warnings(guard: TaskData | None, tasks: Sequence[TaskData]) -> list[str]:
    """What a person should know of the rows of the guard, and a line for each task that trains on some of them: it then
    tells what was learned, not what is general."""
    if guard is None:
        return []
    rows = [row.input_ids.tobytes() for row in guard.test_rows]
    lines = guard.warnings()
    for data in tasks:
        trained = {sample.input_ids.tobytes() for sample in data.samples}
        if count := sum(row in trained for row in rows):
            lines.append(f"{count} of its {len(rows)} rows are trained on by {data.task.name}; give it rows of its own")
    return lines
