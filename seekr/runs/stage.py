"""From one stage to the next: train on a task, let the method remember it, and put all of it in place at once."""

from __future__ import annotations

import gc
import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from seekr.config.identity import as_kept_now, difference_in_words
from seekr.config.training_arguments import training_arguments
from seekr.data.answers import AnswerKey, key_of
from seekr.data.clock import fixed_clock
from seekr.data.task_data import PlannedStage
from seekr.disk.files import read_json, write_json
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import is_main, wait_for_all
from seekr.errors import RunError, say
from seekr.methods import TaskContext
from seekr.methods.base import batch_of
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import answer_cross_entropy, answer_positions, logits_at
from seekr.progress import bar
from seekr.runs.folder import finished_stages, partial_folder, stage_folder, stage_under_construction, working_folder
from seekr.runs.live import ONE_RUN, LiveLog
from seekr.runs.lock import keep_lock
from seekr.runs.manifest import link_of, write_manifest
from seekr.runs.model_store import newest_weights, save_whole
from seekr.runs.prepare import RunSpec
from seekr.runs.record import name_stages
from seekr.training.checkpoints import checkpoint_step, newest_complete_checkpoint
from seekr.training.interruption import stopping_politely
from seekr.training.order import task_seed
from seekr.training.rounding import RoundingWatch
from seekr.training.trainer import ContinualTrainer


def build_stage(spec: RunSpec, stage: PlannedStage, live: LiveLog) -> None:
    """Makes one stage from the stages on disk; resumes from the newest checkpoint where it was stopped in training.

    Raises RunError where training fails, KeyboardInterrupt where the user stops it: nothing of the stage stands then.
    """
    agreed(lambda: keep_lock(spec.run) if is_main() else None)
    earlier = finished_stages(spec.run)
    models, start = spec.models, newest_weights(earlier)
    working = working_folder(spec.run, stage.index, stage.name)
    context = make_context(spec, stage, earlier, start)
    if stage.learn:
        learn_stage(spec, stage, context, start, working, live)
        check_loss(spec, context)
    else:
        context.model = models.plain()
    final = stage_folder(spec.run, stage.index, stage.name)
    context.folder = folder = partial_folder(final)
    with stage_under_construction(final) if is_main() else nullcontext():
        wait_for_all()  # the folder is there
        set_seed(task_seed(spec.config.seed, stage.index))
        with models.precision():
            spec.method.remember(context)
        agreed(lambda: keep_lock(spec.run) if is_main() else None)  # every process has written its part
        if is_main():
            if stage.learn:
                models.save(context.model, working, folder)
                shutil.copyfile(working / "log.jsonl", folder / "log.jsonl")
            rows = {data.task.name: asdict(data.summary) for data in stage.data}
            write_json(folder / "stage.json", {"identity": stage.identity(), "rows": rows})
            write_manifest(folder, final.name, link_of(earlier, read_json(spec.run / "run.json")))
    if is_main():
        name_stages(spec.run, [*earlier, final])
        shutil.rmtree(working.parent, ignore_errors=True)
    wait_for_all()


def check_loss(spec: RunSpec, context: TaskContext) -> None:
    """No step follows the last one to see what it did to the loss. Raises RunError where that is not finite."""
    batch = batch_of([context.samples[0]], context)
    with torch.no_grad(), spec.models.precision():
        logits = logits_at(context.model, model_inputs(batch), *answer_positions(batch["labels"]))
    loss = answer_cross_entropy(logits, batch["labels"], torch.ones(1, device=logits.device))
    if not loss.isfinite():
        raise RunError(
            f"task {context.task!r}, after its last step: the loss of row 0 (counted from 0) is not finite: {loss:g}; "
            "the stage was not kept. A lower learning rate may mend it, or dtype float32 where it is float16"
        )


def make_context(spec: RunSpec, stage: PlannedStage, earlier: list[Path], start: Path | None) -> TaskContext:
    """What the method is given of a task; the model and the folder to write into come later."""
    task = stage.data[0].task
    context = TaskContext(
        task=stage.name,
        index=stage.index,
        learn=stage.learn,
        seed=spec.config.seed,
        model=nn.Identity(),
        before=None,
        tokenizer_fingerprint=spec.tokenizer_fingerprint,
        model_fingerprint=spec.model_fingerprint,
        tokenizer=spec.tokenizer,
        pad_token_id=spec.tokenizer.pad_token_id,
        samples=stage.samples,
        prompts=stage.prompts,
        key_of=lambda place: key_at(spec, stage, place),
        metric=task.metric,
        max_new_tokens=stage.data[0].max_new_tokens,
        max_length=spec.max_length,
        micro_batch_rows=spec.arguments.per_device_train_batch_size,
        device=spec.models.device,
        stages=earlier,
        working=working_folder(spec.run, stage.index, stage.name),
        folder=Path(),
        encrypt=spec.config.encrypt,
        track=bar,
    )
    if stage.learn:
        context.before = lambda: spec.models.before(context.model, start)
    return context


def key_at(spec: RunSpec, stage: PlannedStage, place: int) -> AnswerKey:
    """The key to the answer of the training row at a place of the stage."""
    with fixed_clock(spec.clock):
        return key_of(stage.samples[place].example, spec.tokenizer)


def learn_stage(
    spec: RunSpec, stage: PlannedStage, context: TaskContext, start: Path | None, working: Path, live: LiveLog
) -> None:
    """Trains on a stage's rows; `context.model` is then ready to be measured and saved."""
    if is_main():
        claim(working, spec, stage)
    wait_for_all()
    arguments = _arguments(spec, stage, working)
    seed = task_seed(spec.config.seed, stage.index)
    set_seed(seed)
    models = spec.models
    context.model = model = models.trainable(start)
    with models.precision():
        objective = spec.method.start(context)
    with stopping_politely() as interruption:
        trainer = ContinualTrainer(
            model,
            arguments,
            losses=objective,
            train_samples=stage.samples,
            task_name=stage.name,
            task_index=stage.index,
            log_path=working / "log.jsonl",
            watch=live.write,
            pad_token_id=spec.tokenizer.pad_token_id,
            step_rows=spec.step_rows,
            callbacks=[interruption, RoundingWatch(stage.name), live, *spec.callbacks],
        )
        trainer.train(resume_from_checkpoint=True)
    # What accelerate wrapped around the forward (autocast) is for training only.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if models.sharded:
        save_whole(model, trainer.accelerator.get_state_dict(trainer.model_wrapped), working / "whole")
    trainer.accelerator.free_memory()
    del trainer, objective
    if models.sharded:
        context.model = model = nn.Identity()  # parts make room for what is measured
    gc.collect()  # what trains refers to itself in circles, and has gradients and the optimizer's state with it
    if models.sharded:
        context.model = models.read_back(start, working, seed=seed)
    else:
        context.model = models.settled(model, start, seed=seed)


def claim(working: Path, spec: RunSpec, stage: PlannedStage) -> None:
    """Sees to it that checkpoints belong to this task with this data: those of another are deleted, and it is said."""
    path = working / "task.json"
    here = json.loads(json.dumps({"run": spec.identity, "stage": stage.identity()}))  # as it will be read back
    try:
        there = read_json(path) if path.is_file() else {}
        there |= {"run": as_kept_now(there["run"])} if there else {}
    except (RunError, KeyError, TypeError):  # torn: nothing says what the checkpoints are of
        there = {}
    if working.is_dir() and there != here:
        if (checkpoint := newest_complete_checkpoint(working)) is not None:
            of = f"is of another configuration ({difference_in_words(there, here)})"
            of = of if there else f"is of nobody knows what: {path} is missing or damaged"
            say(
                f"task {stage.name}: its checkpoint of step {checkpoint_step(checkpoint)} {of}; it is deleted, "
                "and the task is learned from its beginning"
            )
        shutil.rmtree(working)
    write_json(path, here)


def _arguments(spec: RunSpec, stage: PlannedStage, working: Path) -> Any:
    epochs = {} if stage.num_train_epochs is None else {"num_train_epochs": float(stage.num_train_epochs)}
    own = [name for name in spec.arguments.report_to or [] if name not in ONE_RUN]
    return training_arguments(
        {**spec.training, **epochs, "report_to": own or "none"}, output_dir=working, seed=spec.config.seed
    )
