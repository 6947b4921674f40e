"""What is planned: a configuration as `seekr learn` would read it, as far as it can be without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PretrainedConfig, PreTrainedTokenizerBase, TrainingArguments

from seekr.config.schema import Config, make_tasks
from seekr.config.training_arguments import training_arguments
from seekr.data.conversation import use_template
from seekr.data.encoding import max_length_of
from seekr.data.task import Task
from seekr.data.task_data import PlannedStage, read_task
from seekr.errors import InputError
from seekr.methods import Method, make_method
from seekr.modeling.checks import end_token_note
from seekr.modeling.loading import load_config_of, load_tokenizer
from seekr.planning.rows import StageRows
from seekr.runs.prepare import check_settings
from seekr.scoring.cells import JOINT


@dataclass(frozen=True)
class RunOnPaper:
    """A configuration, checked; `notes` says what had to be assumed of it."""

    config: Config
    model_config: PretrainedConfig
    method: Method
    arguments: TrainingArguments
    lora: LoraConfig | None
    stages: list[StageRows]
    notes: list[str]


def read_run(config: Config) -> RunOnPaper:
    """Reads what there is of a run: its settings, the model's config.json, its tokenizer and its rows.

    A task whose file is not here is planned as `train_limit` rows of `max_length` tokens. Raises InputError.
    """
    method = make_method(config.method)
    training, lora, tasks = check_settings(config, method, make_tasks(config), _on_this_machine(config.training))
    model_config = load_config_of(config.model)
    tokenizer = _tokenizer(config)
    learned = sum(task.learn for task in tasks)
    max_length = max_length_of(model_config, tokenizer, config.max_length, method.form.virtual_tokens(learned))
    stages = _stages(tasks, tokenizer, max_length, config.seed, joint=method.joint)
    missing = [stage.name for stage in stages if not stage.known]
    notes = []
    if missing:
        why = "without a tokenizer no rows can be counted" if tokenizer is None else "their rows are not here"
        notes.append(
            f"{len(missing)} of {len(stages)} tasks are planned as train_limit rows of {max_length:,} tokens, all of "
            f"them answer: {why}"
        )
    if config.training.get("use_liger_kernel"):
        notes.append("use_liger_kernel: not counted; a task step's logits, which are counted, fall away by it")
    if tokenizer is not None and (note := end_token_note(config.model, tokenizer)):
        notes.append(f"model: {note}")
    notes += method.advice({stage.name: len(stage.sizes) for stage in stages})
    arguments = training_arguments(training, output_dir=Path(config.output_dir), seed=config.seed)
    return RunOnPaper(config, model_config, method, arguments, lora, stages, notes)


def _on_this_machine(training: dict[str, Any]) -> dict[str, Any]:
    """Settings of a machine with a GPU, so that they can be checked on one without."""
    elsewhere = ("tf32", "use_liger_kernel")
    return {key: value for key, value in training.items() if key not in elsewhere} | {"use_cpu": True}


def _tokenizer(config: Config) -> PreTrainedTokenizerBase | None:
    try:
        tokenizer = load_tokenizer(config.model)
    except InputError:
        return None
    return use_template(tokenizer, config.chat_template)


def _stages(tasks: list[Task], tokenizer: Any, max_length: int, seed: int, *, joint: bool) -> list[StageRows]:
    stages = []
    for index, task in enumerate(tasks):
        here = isinstance(task.train, list) or Path(str(task.train)).exists()
        if tokenizer is not None and here:
            data = read_task(task, tokenizer, max_length, seed=seed)
            stages.append(StageRows.of(PlannedStage(index, task.name, task.learn, [data])))
        else:
            if task.train_limit is None:
                raise InputError(
                    f"task {task.name!r}: its rows cannot be counted ({task.train} is not here, or the model has no "
                    f"tokenizer); to plan without them say how many there are at most: tasks.{index}.train_limit=N"
                )
            sizes = [(max_length, max_length - 1)] * task.train_limit  # as long as they may be, all of it answer
            stages.append(StageRows(index, task.name, task.learn, task.num_train_epochs, sizes, known=False))
    if not joint:
        return stages
    learned = [stage for stage in stages if stage.learn]
    sizes = [size for stage in learned for size in stage.sizes]
    return [StageRows(0, JOINT, True, learned[0].epochs, sizes, all(stage.known for stage in learned))]
