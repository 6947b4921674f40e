"""From one stage to the next: train on a task, let the method remember it, and put all of it in place at once."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seekr.config.identity import as_kept_now, difference_in_words
from seekr.config.training_arguments import training_arguments
from seekr.data import AnswerKey, key_of
from seekr.data.clock import fixed_clock
from seekr.data.task_data import PlannedStage
from seekr.disk import read_json, write_json
from seekr.distributed.processes import is_main, wait_for_all
from seekr.errors import RunError
from seekr.methods import TaskContext
from seekr.methods.averaging import average_weights
from seekr.methods.base import batch_of
from seekr.methods.replay import Replay
from seekr.modeling.inputs import model_inputs
from seekr.modeling.loading import load_stage
from seekr.modeling.losses import answer_cross_entropy, answer_positions, logits_at
from seekr.progress import bar
from seekr.runs.folder import (
    finished_stages,
    has_weights,
    partial_folder,
    stage_folder,
    stage_under_construction,
    working_folder,
)
from seekr.runs.prepare import Prepared
from seekr.training.checkpoints import checkpoint_step, newest_complete_checkpoint
from seekr.training.interruption import stopping_politely
from seekr.training.order import task_seed
from seekr.training.rounding import RoundingWatch
from seekr.training.trainer import ContinualTrainer


def build_stage(prepared: Prepared, stage: PlannedStage) -> None:
    """Makes one stage from the stages on disk; resumes from the newest checkpoint where it was stopped in training.

    Raises RunError where training fails, KeyboardInterrupt where the user stops it: nothing of the stage stands then.
    """
    earlier = finished_stages(prepared.run)
    start = newest_weights(earlier)
    working = working_folder(prepared.run, stage.index, stage.name)
    context = make_context(prepared, stage, earlier, start)
    if stage.learn:
        learn_stage(prepared, stage, context, start, working)
    else:
        context.model = prepared.on_device(lambda: load_stage(prepared.config.model, None, dtype=prepared.config.dtype))
    if stage.learn:
        check_loss(prepared, context)
    final = stage_folder(prepared.run, stage.index, stage.name)
    context.folder = folder = partial_folder(final)
    with stage_under_construction(final) if is_main() else nullcontext():
        wait_for_all()  # the folder is there
        seed_everything(task_seed(prepared.config.seed, stage.index))
        with training_precision(prepared):
            prepared.method.after_task(context)
        wait_for_all()  # every process has written its part
        if is_main():
            if stage.learn:
                if prepared.in_parts:
                    (working / "model").replace(folder / "model")
                else:
                    prepared.method.save(context.model, prepared.tokenizer, folder / "model")
                shutil.copyfile(working / "log.jsonl", folder / "log.jsonl")
            rows = {data.task.name: asdict(data.summary) for data in stage.data}
            write_json(folder / "stage.json", {"identity": stage.identity(), "rows": rows})
    if is_main():
        shutil.rmtree(working.parent, ignore_errors=True)
    wait_for_all()


def check_loss(prepared: Prepared, context: TaskContext) -> None:
    """No step comes behind the last one to see what it did to the loss. Raises RunError where that is not finite."""
    batch = batch_of([context.samples[0]], context)
    with torch.no_grad(), training_precision(prepared):
        logits = logits_at(context.model, model_inputs(batch), *answer_positions(batch["labels"]))
    loss = answer_cross_entropy(logits, batch["labels"], torch.ones(1, device=logits.device))
    if not loss.isfinite():
        raise RunError(
            f"task {context.task!r}, behind its last step: the loss of row 0 (counted from 0) is not finite: {loss:g}; "
            "the stage was not kept. A lower learning rate may mend it, or dtype float32 where it is float16"
        )


def newest_weights(stages: list[Path]) -> Path | None:
    """The model folder that the next task starts from; None = the base model."""
    return next((stage / "model" for stage in reversed(stages) if has_weights(stage)), None)


def make_context(prepared: Prepared, stage: PlannedStage, earlier: list[Path], start: Path | None) -> TaskContext:
    """What the method is told about a task; the model and the folder to write into come later."""
    base, dtype, task = prepared.config.model, prepared.config.dtype, stage.data[0].task
    context = TaskContext(
        task=stage.name,
        index=stage.index,
        learn=stage.learn,
        seed=prepared.config.seed,
        model=nn.Identity(),
        before=None,
        tokenizer_fingerprint=prepared.tokenizer_fingerprint,
        model_fingerprint=prepared.model_fingerprint,
        tokenizer=prepared.tokenizer,
        pad_token_id=prepared.tokenizer.pad_token_id,
        samples=stage.samples,
        prompts=stage.prompts,
        key_of=lambda place: key_at(prepared, stage, place),
        metric=task.metric,
        max_new_tokens=stage.data[0].max_new_tokens,
        max_length=prepared.max_length,
        micro_batch_rows=prepared.arguments.per_device_train_batch_size,
        device=prepared.device,
        stages=earlier,
        working=working_folder(prepared.run, stage.index, stage.name),
        folder=Path(),
        track=bar,
    )
    if stage.learn:
        context.before = lambda: prepared.on_device(lambda: prepared.method.load(base, start, dtype=dtype))
    return context


def key_at(prepared: Prepared, stage: PlannedStage, place: int) -> AnswerKey:
    """The key to the answer of the training row at a place of the stage."""
    with fixed_clock(prepared.clock):
        return key_of(stage.samples[place].example, prepared.tokenizer)


def learn_stage(
    prepared: Prepared, stage: PlannedStage, context: TaskContext, start: Path | None, working: Path
) -> None:
    """Trains on a stage's rows; `context.model` is then ready to be measured and saved."""
    config = prepared.config
    if is_main():
        claim(working, prepared, stage)
    wait_for_all()
    arguments = _arguments(prepared, stage, working)
    seed_everything(task_seed(config.seed, stage.index))
    method = prepared.method
    model = method.load_trainable(config.model, start, dtype=config.dtype, lora=prepared.lora)
    context.model = model
    with training_precision(prepared):
        method.before_task(context)
    with stopping_politely() as interruption:
        trainer = ContinualTrainer(
            model,
            arguments,
            method=method,
            train_samples=stage.samples,
            memories=method.replayed,
            signals=method.signals,
            task_name=stage.name,
            task_index=stage.index,
            log_path=working / "log.jsonl",
            pad_token_id=prepared.tokenizer.pad_token_id,
            step_rows=prepared.step_rows,
            replay_passes=method.replay_passes if isinstance(method, Replay) else None,
            callbacks=[interruption, RoundingWatch(stage.name), *prepared.callbacks],
        )
        trainer.train(resume_from_checkpoint=True)
    # What accelerate wrapped around the forward (autocast) is for training only.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if prepared.sharded:
        save_whole(model, trainer.accelerator.get_state_dict(trainer.model_wrapped), working / "whole")
    trainer.accelerator.free_memory()
    del trainer
    if prepared.sharded:
        context.model = model = nn.Identity()  # parts make room for what is measured
    gc.collect()  # what trains refers to itself in circles, and has gradients and the optimizer's state with it
    if prepared.sharded:
        context.model = read_back(prepared, stage, start, working)
    else:
        context.model = settled(prepared, stage, start, model)


def settled(prepared: Prepared, stage: PlannedStage, start: Path | None, model: Any) -> Any:
    """What stays of a model that was trained from `start` on, in evaluation mode: averaged with it where that is asked.

    Nothing is written before, so that a run which is stopped here averages what its checkpoint holds: once.
    """
    config, method, lora = prepared.config, prepared.method, prepared.lora
    model = method.trained(model)
    if method.average is not None:
        if lora is None:
            before = method.load(config.model, start, dtype=config.dtype)
        else:
            seed_everything(task_seed(config.seed, stage.index))  # as the adapter was drawn when the task began
            before = method.trained(method.load_trainable(config.model, start, dtype=config.dtype, lora=lora))
        average_weights(model, before, method.average)
    return model.eval()


def save_whole(model: Any, state: dict[str, Any], folder: Path) -> None:
    """Writes a model whose parameters lie in parts on several processes, `state` being all of them, gathered."""
    if is_main():
        model.save_pretrained(folder, state_dict=state)
    wait_for_all()


def read_back(prepared: Prepared, stage: PlannedStage, start: Path | None, working: Path) -> Any:
    """The trained model that `save_whole` wrote to `working`, in evaluation mode.

    One that is measured in parts is frozen and cannot be saved: its stage's `model` folder is written before, there.
    """
    config, method, written = prepared.config, prepared.method, working / "model"

    def whole() -> Any:
        model = method.load_trainable(config.model, working / "whole", dtype=config.dtype, lora=prepared.lora)
        return settled(prepared, stage, start, model)

    if not prepared.in_parts:
        return whole().to(prepared.device)
    if is_main():
        shutil.rmtree(written, ignore_errors=True)  # of an attempt that was stopped
        method.save(whole(), prepared.tokenizer, written)
        shutil.rmtree(working / "whole")
    wait_for_all()
    return prepared.on_device(lambda: method.load(config.model, written, dtype=config.dtype))


def claim(working: Path, prepared: Prepared, stage: PlannedStage) -> None:
    """Sees to it that checkpoints belong to this task with this data: those of another are deleted, and it is said."""
    path = working / "task.json"
    here = json.loads(json.dumps({"run": prepared.identity, "stage": stage.identity()}))  # as it will be read back
    try:
        there = read_json(path) if path.is_file() else {}
        there |= {"run": as_kept_now(there["run"])} if there else {}
    except (RunError, KeyError, TypeError):  # torn: nothing says what the checkpoints are of
        there = {}
    if working.is_dir() and there != here:
        if (checkpoint := newest_complete_checkpoint(working)) is not None:
            print(
                f"seekr: task {stage.name}: its checkpoint of step {checkpoint_step(checkpoint)} is of another "
                f"configuration ({difference_in_words(there, here)}); it is deleted, and the task is learned from its "
                "beginning",
                file=sys.stderr,
            )
        shutil.rmtree(working)
    write_json(path, here)


def _arguments(prepared: Prepared, stage: PlannedStage, working: Path) -> Any:
    epochs = {} if stage.num_train_epochs is None else {"num_train_epochs": float(stage.num_train_epochs)}
    return training_arguments(
        {**prepared.training, **epochs},
        output_dir=working,
        seed=prepared.config.seed,
    )


def training_precision(prepared: Prepared) -> torch.autocast:
    """The autocast that training runs under: a teacher read in another precision would differ by its noise."""
    arguments = prepared.arguments
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    return torch.autocast(prepared.device.type, dtype=dtype, enabled=arguments.bf16 or arguments.fp16)


def seed_everything(seed: int) -> None:
    """Sets the random state of Python, numpy and torch."""
    from transformers import set_seed

    set_seed(seed)
