"""Everything that a run needs, read and checked before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from seekr.attention.support import without_attention
from seekr.attention.tap import layers_and_heads
from seekr.config import identity
from seekr.config.launch.checks import check_fp16, check_launch, check_sharding, sharding
from seekr.config.schema import Config, make_tasks
from seekr.config.training_arguments import check_lora, check_training, training_arguments, weight_changing
from seekr.data.clock import clock_of, fixed_clock, now
from seekr.data.conversation import use_template
from seekr.data.encoding import max_length_of
from seekr.data.finished import finished_tasks
from seekr.data.task import Task, check_tasks, with_template_kwargs
from seekr.data.task_data import PlannedStage, TaskData, order_tasks, plan_stages, read_task
from seekr.disk.sealed import cipher
from seekr.distributed.processes import process_count
from seekr.evaluation.checks import check_answering, check_metrics
from seekr.methods import Method, make_method
from seekr.modeling.balancing import experts_of
from seekr.modeling.checks import check_loss_scale, check_not_quantized, check_token_ids, end_token_note
from seekr.modeling.fingerprints import fingerprint_tokenizer
from seekr.modeling.loading import load_config_of, load_tokenizer, one_kind_of_bar, parameter_count
from seekr.progress import bar
from seekr.runs.base_model import base_model
from seekr.runs.folder import without_newest
from seekr.runs.guard import read_guard
from seekr.runs.model_store import ModelStore
from seekr.runs.places import check_home, check_key, check_removable
from seekr.runs.record_schema import read_record
from seekr.runs.standing import (
    as_begun,
    check_answered,
    check_finished,
    check_memories,
    check_output_dir,
    check_whole,
    rows_of_a_batch,
    rows_of_a_step,
    without_redone,
)
from seekr.scoring.cells import GENERAL, wanted_cells


@dataclass(frozen=True)
class Request:
    """What a user asks for. `tasks` and `method` stand for the configuration's where they are given as objects."""

    config: Config
    tasks: Sequence[Task] | None = None
    method: Method | None = None
    callbacks: Sequence[TrainerCallback] = ()
    source: Path | None = None  # a finished run whose stages come first
    began: datetime | None = None  # when the run begins, if it is a new one; None = now
    verify: bool = True  # files are compared with their hashes before they are used, once a process
    redo: str | None = None  # a finished stage that is learned again, and those after it
    weights: bool = True  # False: it is only looked at, and no weights are read; a run's own are taken for the same


@dataclass(frozen=True)
class RunSpec:
    """What a run is, read and checked: nothing the user gave can fail any more, only the run itself."""

    config: Config
    run: Path
    method: Method
    training: dict[str, Any]
    lora: LoraConfig | None
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    tasks: list[TaskData]
    """In the order of the matrix: skills first, then the tasks in the order given."""
    general: TaskData | None  # rows that no task trains on, scored before the first task and after every one
    stages: list[PlannedStage]
    finished: list[Path]
    model_fingerprint: str
    tokenizer_fingerprint: str
    trained_parameters: int
    stored_parameters: int
    step_rows: int
    """Rows of an optimizer step, over all processes."""
    clock: datetime
    """When the run began: the time that chat templates are given."""
    notes: Sequence[str] = ()
    """What a person should know of the model before it is trained."""
    vllm_version: str | None = None
    """Of the vLLM that answers test rows; None = transformers does."""
    callbacks: Sequence[TrainerCallback] = ()
    source: Path | None = None
    verify: bool = True
    """Whether files are compared with their hashes before they are used."""
    redone: Sequence[Path] = ()
    """Finished stages that are to be learned again: they go once the run begins."""

    @property
    def joint(self) -> bool:
        return self.method.joint

    @cached_property
    def columns(self) -> dict[int, TaskData]:
        return {**dict(enumerate(self.tasks)), **({} if self.general is None else {GENERAL: self.general})}

    def wanted_cells(self, cells: str) -> list[tuple[int, int]]:
        return wanted_cells(cells, len(self.tasks), joint=self.joint, general=self.general is not None)

    @cached_property
    def arguments(self) -> TrainingArguments:
        """What transformers makes of the training settings that all tasks share."""
        return training_arguments(self.training, output_dir=self.run, seed=self.config.seed)

    @cached_property
    def models(self) -> ModelStore:
        """Its models, on disk and loaded."""
        return ModelStore(
            base=self.config.model,
            dtype=self.config.dtype,
            method=self.method,
            lora=self.lora,
            tokenizer=self.tokenizer,
            arguments=self.arguments,
            sharded=bool(sharding(self.training)),
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same one, besides their finished tasks: those keep their own, see PlannedStage."""
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "max_length": self.max_length,
            "method": self.method.settings(),
            "lora": self.config.lora or {},
            "training": weight_changing(self.training),
            "step_rows": self.step_rows,
            "tokenizer": self.tokenizer_fingerprint,
            "model": self.model_fingerprint,  # last: another dtype changes it too, and is the better answer
        }


@one_kind_of_bar()
def prepare(request: Request) -> RunSpec:
    """Reads and checks all of a request, cheap checks first; writes nothing. Raises InputError."""
    config = request.config
    run = Path(config.output_dir)
    check_output_dir(run)
    home = request.source if request.source is not None and not (run / "stages").is_dir() else run
    record = read_record(home)
    config = as_begun(config, record, home)
    if config.encrypt:
        cipher("encrypt", new=not (record or {"config": {}})["config"].get("encrypt"))
    check_home(home, run)
    tasks = list(request.tasks) if request.tasks is not None else make_tasks(config)
    check_tasks(tasks)
    method = request.method or make_method(config.method)
    check_sharding(method, config.training)
    check_launch(config.training)
    training, lora, tasks = check_settings(config, method, tasks, config.training)
    model_config = load_config_of(config.model)
    check_not_quantized(config.model, model_config)
    tokenizer = use_template(load_tokenizer(config.model), config.chat_template)
    learned = sum(task.learn for task in tasks)
    max_length = max_length_of(model_config, tokenizer, config.max_length, method.form.virtual_tokens(learned))
    clock = clock_of(record, home / "run.json") if record is not None else request.began or now()
    finished, redone = without_redone(run, home, record or {}, request.redo)
    check_key(home, finished)
    known = finished_tasks(home, finished, [task.name for task in tasks])
    data = []
    with bar("reading tasks", len(tasks)) as advance, fixed_clock(clock):
        for task in tasks:
            data.append(read_task(task, tokenizer, max_length, seed=config.seed, finished=known.get(task.name)))
            advance(1)
        general = read_guard(config, tokenizer, max_length, home / "predictions")
    check_metrics(data)
    stages = plan_stages(data, joint=method.joint)
    step_rows = rows_of_a_step(training, record)
    accumulation = -(-step_rows // (rows_of_a_batch(training) * process_count()))
    if accumulation != training.get("gradient_accumulation_steps", 1):
        training = {**training, "gradient_accumulation_steps": accumulation}
    vllm_version = check_answering(config, method, lora, data)
    facts = check_model(
        request,
        method,
        lora,
        tokenizer,
        max_length,
        [*data, *([] if general is None else [general])],
        compiled=bool(training.get("torch_compile")),
        fingerprint="" if record is None else record["model_fingerprint"],
    )
    facts["notes"] += method.advice({stage.name: len(stage.samples) for stage in stages[len(finished) :]})
    spec = RunSpec(
        config=config,
        run=run,
        method=method,
        training=training,
        lora=lora,
        tokenizer=tokenizer,
        max_length=max_length,
        tasks=data,
        general=general,
        stages=stages,
        finished=finished,
        callbacks=request.callbacks,
        source=request.source,
        verify=request.verify,
        redone=redone,
        clock=clock,
        step_rows=step_rows,
        vllm_version=vllm_version,
        **facts,
    )
    if record is not None:
        there = identity.as_kept_now(record["identity"])
        if there["method"]["name"] == method.name:  # older runs name a user's own method without its module
            there["method"]["name"] = method.full_name
        if home == request.source:
            there = identity.with_free(there, spec.identity, method.free)
        identity.compare(home, there, spec.identity)
    check_finished(home, spec.finished, spec.stages)
    to_come = sum(stage.learn for stage in spec.stages[len(finished) :])
    check_removable(redone, without_newest(finished, config.keep_stages, more=to_come))
    check_answered(spec.wanted_cells(config.cells), spec.columns)
    if len(finished) < len(spec.stages):  # what is trained can be scored on any machine
        check_fp16(training)
        check_whole(finished, spec.stages, record or {}, hashed=False)
        check_memories(method, finished, model=spec.model_fingerprint, tokenizer=spec.tokenizer_fingerprint)
    return spec


def check_settings(
    config: Config, method: Method, tasks: list[Task], training: dict[str, Any]
) -> tuple[dict[str, Any], LoraConfig | None, list[Task]]:
    """The settings of training and of the adapter, checked, and the tasks in their order. Raises InputError."""
    training = check_training(training)
    lora = check_lora(method.form.lora_settings(config.lora))
    method.check_run(dtype=config.dtype, lora=lora is not None, skills=not all(task.learn for task in tasks))
    tasks = with_template_kwargs(tasks, config.chat_template_kwargs)
    return training, lora, order_tasks(tasks, joint=method.joint)


def check_model(
    request: Request,
    method: Method,
    lora: LoraConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    data: Sequence[TaskData],
    *,
    compiled: bool,
    fingerprint: str,
) -> dict[str, Any]:
    """Whether rows, method and adapter fit the model, and the facts of it that a run needs. Raises InputError.

    `fingerprint`: what is taken for the model's where no weights are read.
    """
    config = request.config
    base = base_model(config.model, config.dtype)
    model = base.skeleton()
    check_token_ids(model, tokenizer, data)
    learned = sum(item.task.learn for item in data)
    method.check_model(model, max_length, learned)
    adapted = method.form.adapt(model.requires_grad_(True), lora)
    if config.training.get("fp16"):
        check_loss_scale(adapted)
    trained = parameter_count(adapted, trainable_only=True)
    experts = experts_of(adapted, compiled=compiled)
    found = (experts if isinstance(experts, str) else None, end_token_note(config.model, tokenizer))
    notes = [f"model: {note}" for note in found if note]
    if request.weights:
        fingerprint = base.read(attention=method.reads_attention, max_length=max_length)
    elif method.reads_attention and (note := base.try_without_weights(max_length)):
        notes.append(f"model: {note}")
    if method.reads_attention and base.attention:
        method.check_attention(len(base.attention), layers_and_heads(model)[1])
        if note := without_attention(model, base.attention):
            notes.append(f"model: {note}")
    return {
        "model_fingerprint": fingerprint,
        "tokenizer_fingerprint": fingerprint_tokenizer(tokenizer),
        "notes": notes,
        "trained_parameters": trained,
        "stored_parameters": method.form.stored_parameters(adapted, trained, learned),
    }
