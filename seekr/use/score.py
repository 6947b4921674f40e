"""`seekr score`: a stage answers new rows of a task, and is scored as the run scores that task."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seekr.config.schema import make_tasks
from seekr.config.task_words import parse_task
from seekr.data.clock import clock_of, fixed_clock
from seekr.data.finished import finished_tasks
from seekr.data.task import Task, with_template_kwargs
from seekr.data.task_data import order_tasks, read_test_rows
from seekr.disk.files import user_path
from seekr.errors import InputError
from seekr.evaluation.checks import answering_dtype
from seekr.modeling.checks import check_token_ids
from seekr.modeling.loading import load_tokenizer, one_kind_of_bar
from seekr.progress import bar
from seekr.runs.answer_lines import found_in, lines_of, row_scores_of, score_of
from seekr.runs.answering import ASKED_TOGETHER, answer_task
from seekr.runs.prepare import rows_of_a_batch
from seekr.runs.run import Run
from seekr.scoring.uncertainty import error_of_rows
from seekr.use.stage import best_device, choose, load


@dataclass(frozen=True)
class Scored:
    """What a stage scored on new rows, 0 to 100.

    `error`: the standard error of the score over the rows; None = one row, or a metric that is no mean over rows.
    `lines`: each row with what was answered, as `predictions/` has them; `warnings`: what became of the rows.
    """

    run: str
    stage: str
    task: str
    rows: int
    metric: str
    max_new_tokens: int | None
    score: float
    error: float | None
    warnings: list[str]
    lines: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "lines"}


def score(folder: Path, text: str, stage: str | None = None) -> Scored:
    """Scores a stage, None = the newest, on the rows that `text`, NAME=PATH[,key=value,...], names.

    PATH is a file, a folder with a test split, or a data set of the hub. Where NAME is a task of the run, its settings
    hold but for the limits of rows, and the keys win over them. Writes nothing. Raises InputError.
    """
    run = Run(folder)
    chosen, weights = choose(run, stage)
    config = run.config
    known = {task.name: task for task in make_tasks(config)}
    task = with_template_kwargs([new_task(text, known)], config.chat_template_kwargs)[0]
    tokenizer = load_tokenizer(str(weights))
    with one_kind_of_bar(), fixed_clock(clock_of(run.record, run.folder / "run.json")):
        finished = finished_tasks(run.folder, [one.folder for one in run.stages], [task.name])
        length = run.record["max_length"]
        data = read_test_rows(task, tokenizer, length, seed=run.seed, finished=finished.get(task.name))
        model, method = load(run, weights, dtype=answering_dtype(config))
        check_token_ids(model, tokenizer, [data])
        model.to(best_device(config))
        names = [one.name for one in order_tasks(list(known.values()), joint=run.joint)]
        place = names.index(task.name) if task.name in names else len(names)
        asked = config.training.get("per_device_eval_batch_size", ASKED_TOGETHER)
        with bar(f"scoring {task.name} after {chosen.name}", len(data.test)) as advance:
            given = answer_task(
                model, method, tokenizer, data, place, advance, asked=asked, read=rows_of_a_batch(config.training)
            )
        lines = lines_of(data, given, tokenizer)
    found = found_in(lines, data)
    rows = row_scores_of(data, found) or []
    return Scored(
        run=str(run.folder),
        stage=chosen.name,
        task=task.name,
        rows=len(data.test),
        metric=task.metric,
        max_new_tokens=data.max_new_tokens if data.asked else None,
        score=score_of(data, found),
        error=error_of_rows(rows),
        warnings=data.warnings(),
        lines=lines,
    )


def new_task(text: str, known: dict[str, Task]) -> Task:
    """The task to score: what is said of it, over what the run says of the task of its name. Raises InputError."""
    said = parse_task(text)
    name, path = said.pop("name"), said.pop("path")
    for key in said.keys() & {"train", "eval", "test"}:
        raise InputError(f"--task {text!r}: {key} has no use here; the rows that are scored are those of PATH")
    own = known.get(name)
    kept = [] if own is None else [field.name for field in fields(own)]
    settings = {key: getattr(own, key) for key in kept if key not in ("name", "train", "eval", "test_limit")}
    place = user_path(path)
    return Task(name, **{**settings, **said, "train": [], "test": place.absolute() if place.exists() else path})
