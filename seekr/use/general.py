"""`seekr evaluate RUN --general`: the base model and the stages of a run on tasks of lm-evaluation-harness."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from seekr.data.hub import hub_or_cache
from seekr.distributed.processes import process_count
from seekr.errors import InputError, RunError, nearest, one_line
from seekr.evaluation.checks import answering_dtype
from seekr.methods import make_method
from seekr.methods.form import ModelForm
from seekr.modeling.loading import load_tokenizer, one_kind_of_bar
from seekr.progress import bar
from seekr.runs.base_model import base_model
from seekr.runs.general_tasks import GeneralScore, read_general, write_general
from seekr.runs.lock import locked
from seekr.runs.prepare import rows_of_a_batch
from seekr.runs.run import Run
from seekr.runs.standing import check_weights
from seekr.use.stage import best_device, load

PRESETS = {"trace": ("mmlu", "gsm8k", "bbh", "tydiqa_goldp", "boolq", "piqa")}
"""The six general tasks of TRACE (arXiv 2310.06762), as the harness sets them."""

_SEED = 1234
"""By which the harness itself draws the examples of a prompt."""


def measure_general(folder: Path, asked: str, tasks_folder: Path | None = None) -> None:
    """Scores the base model, and each stage whose weights are there, on tasks; what was scored before stays.

    `asked`: names of tasks, groups and tags of the harness, or of `PRESETS`, with commas between them; `tasks_folder`
    holds tasks of one's own (YAML). Raises InputError before anything is measured, RunError where a task fails.
    """
    run = Run(folder)
    if process_count() > 1:
        raise InputError("--general: one process answers; give the command without `accelerate launch`")
    form = make_method(run.config.method).form
    if type(form).load is not ModelForm.load:
        raise InputError(f"--general: {run.method} answers by prompts that it learned, which the harness cannot give")
    tasks = load_tasks(asked, tasks_folder)
    places = [None, *(stage for stage in run.stages if stage.model is not None)]
    tokenizer = load_tokenizer(run.config.model)
    with locked(run.folder), one_kind_of_bar():
        for stage in places:
            known = {(one.task, one.version) for one in read_general(run.folder) if one.stage == (stage and stage.name)}
            missing = [name for name in tasks if (name, version_of(tasks[name])) not in known]
            if missing:
                model = answering_model(run, None if stage is None else stage.model)
                _score(run, None if stage is None else stage.name, model, tokenizer, {n: tasks[n] for n in missing})
                del model
                gc.collect()


def load_tasks(asked: str, folder: Path | None) -> dict[str, Any]:
    """Name → what the harness needs to ask it, its rows included. Raises InputError where one cannot be had."""
    harness()
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise InputError(f"--general-tasks: {folder}: no such folder; it holds tasks of the harness, in YAML")
    names = [name for word in asked.split(",") for name in PRESETS.get(word.strip(), (word.strip(),))]
    own = None if folder is None else str(folder.absolute())
    manager = TaskManager(include_path=own, include_defaults=False)
    others = not set(names) <= set(manager.all_tasks)
    if others:  # the harness's own are many, and take seconds to look through
        with bar("looking for tasks of lm-evaluation-harness"):
            manager = TaskManager(include_path=own)
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"--general: {name!r} is no task; {nearest(name, {*PRESETS, *manager.all_tasks})}")
    with hub_or_cache(asked=others):
        return {name: _load(manager, name) for name in names}


def harness() -> ModuleType:
    """lm-evaluation-harness, without its advice. Raises InputError where it is not installed."""
    try:
        import lm_eval.evaluator
        import lm_eval.models.huggingface
    except ImportError as error:
        raise InputError(
            f"--general needs lm-evaluation-harness ({error}): pip install 'seekr-continual[lm-eval]'"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval


def version_of(task: Any) -> str:
    """Of the harness, and of the tasks in it that it asks."""
    versions = {str((one.get_config("metadata") or {}).get("version", "unnumbered")) for one in task["tasks"].values()}
    return f"lm_eval {harness().__version__}, task {', '.join(sorted(versions))}"


def answering_model(run: Run, weights: Path | None) -> Any:
    """The base model, or that of a stage, as it answers test rows. Raises InputError where it is not as it was."""
    config, dtype = run.config, answering_dtype(run.config)
    if weights is not None:
        check_weights(run.folder, weights.parent)
        model = load(run, weights, dtype=dtype)[0]
    elif base_model(config.model, config.dtype).read() != run.record["model_fingerprint"]:
        raise InputError(f"model: {config.model} is not what {run.folder} was trained from; put that one back")
    else:
        model = make_method(config.method).form.load(config.model, None, dtype=dtype)
    return model.to(best_device(config))


def _load(manager: Any, name: str) -> Any:
    try:
        loaded = manager.load([name])
    except Exception as error:  # of the task's YAML, of data sets, of the network
        why = one_line(str(error))[:200]
        raise InputError(f"--general: {name} cannot be had ({type(error).__name__}: {why})") from None
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return loaded


def _score(run: Run, stage: str | None, model: Any, tokenizer: Any, tasks: dict[str, Any]) -> None:
    training = run.config.training
    rows = training.get("per_device_eval_batch_size", rows_of_a_batch(training))
    asked = harness().models.huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=rows)
    where = "of the base model" if stage is None else f"after {stage}"
    with bar(f"general tasks {where}", len(tasks)) as advance:
        for name, task in tasks.items():
            try:
                found = harness().evaluator.evaluate(lm=asked, task_dict=task, log_samples=False)
            except Exception as error:  # code of the task's
                raise RunError(f"general task {name} {where}: {type(error).__name__}: {error}") from error
            one = _result(name, stage, found, version_of(task))
            kept = [it for it in read_general(run.folder) if (it.task, it.stage) != (name, stage)]
            write_general(run.folder, [*kept, one])
            advance(1)


def _result(name: str, stage: str | None, found: Any, version: str) -> GeneralScore:
    """The first metric of a task or group, or of a tag the mean over its tasks."""
    results = found["results"]
    rows = sum(count["effective"] for count in found["n-samples"].values())
    own = [results[name]] if name in results else [results[task] for task in found["n-samples"]]
    metric = next(key for key in own[0] if "," in key and "_stderr," not in key)
    error = own[0].get(metric.replace(",", "_stderr,", 1)) if len(own) == 1 else None
    score = sum(one[metric] for one in own) / len(own)
    return GeneralScore(
        name, stage, metric.removesuffix(",none"), score, error if isinstance(error, float) else None, rows, version
    )
