"""What a run would do, without doing it: tasks, rows, steps, kept samples and disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from seekr.arguments import training_arguments
from seekr.preparation import Prepared
from seekr.report.terminal import readable_bytes
from seekr.tables import console, print_table
from seekr.task_data import PlannedStage
from seekr.training.order import StepPlan

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CHECKPOINTS = 3  # two are kept, and the next is written before the older one goes


@dataclass(frozen=True)
class StagePlan:
    """Optimizer steps of a stage by kind, and the rows that are kept of it."""

    stage: PlannedStage
    rows: int
    task_steps: int
    replay_steps: int
    kept: int


def print_plan(prepared: Prepared, folders: Sequence[str]) -> None:
    """Prints what `seekr learn` would do for a checked request. Touches nothing.

    `folders`: of all its seeds, which differ in nothing else that is shown.
    """
    out = console()
    config = prepared.config
    out.print(f"model       {config.model}, {config.dtype}, {prepared.max_length} tokens at most")
    settings = ", ".join(f"{key} {value}" for key, value in prepared.method.settings().items() if key != "name")
    out.print(f"method      {prepared.method.name}{': ' + settings if settings else ''}")
    out.print(f"training    {_pairs(prepared.training)}")
    if config.lora:
        out.print(f"lora        {_pairs(config.lora)}")
    for folder in folders:
        out.print(f"output_dir  {folder}")
    table = Table()
    table.add_column("")
    table.add_column("task", overflow="fold")
    for heading in ("rows", "test", "task\nsteps", "replay\nsteps", "kept", "prompts\ncut", "answers\ncut"):
        table.add_column(heading, justify="right")
    for plan in plan_run(prepared):
        stage, summaries = plan.stage, [data.summary for data in plan.stage.data]
        done = stage.index < len(prepared.finished)
        table.add_row(
            str(stage.index),
            stage.name + (" (done)" if done else "" if stage.learn else " (skill)"),
            str(plan.rows),
            str(sum(len(data.test) for data in stage.data)),
            str(plan.task_steps) if stage.learn else "–",
            str(plan.replay_steps) if stage.learn else "–",
            str(plan.kept),
            str(sum(summary.cut_prompts for summary in summaries)),
            str(sum(summary.cut_answers for summary in summaries)),
        )
    print_table(table)
    for data in prepared.tasks:
        for warning in data.warnings():
            out.print(f"{data.task.name}: {warning}")
    stages, working = map(readable_bytes, disk(prepared))
    out.print(
        f"disk        {stages} for the weights of the stages, {working} more while a task is learned, "
        "besides what is kept of the tasks" + (f"; for each of {len(folders)} folders" if len(folders) > 1 else ""),
    )
    out.print("nothing was written (--dry-run)")


def plan_run(prepared: Prepared) -> list[StagePlan]:
    """The steps of every stage, by the rule that the trainer follows."""
    plans: list[StagePlan] = []
    arguments = training_arguments(prepared.training, output_dir=prepared.run, seed=prepared.config.seed)
    for stage in prepared.stages:
        rows = sum(len(data.samples) for data in stage.data)
        memories = tuple(plan.kept for plan in plans if plan.kept and prepared.method.replays)
        steps = StepPlan(rows, memories, prepared.step_rows, prepared.config.seed, stage.index)
        epochs = stage.num_train_epochs or arguments.num_train_epochs
        total = arguments.max_steps if arguments.max_steps > 0 else math.ceil(epochs * len(steps))
        whole, rest = divmod(total, len(steps))
        kinds = [*steps.kinds[:rest]]
        task_steps = whole * steps.task_steps + kinds.count("task")
        kept = prepared.method.kept_rows(rows)
        if stage.learn:
            plans.append(StagePlan(stage, rows, task_steps, total - task_steps, kept))
        else:
            plans.append(StagePlan(stage, rows, 0, 0, kept))
    return plans


def disk(prepared: Prepared) -> tuple[int, int]:
    """Bytes of the weights of all stages that are kept, and of the checkpoints while a task is learned."""
    trained, stored = (
        parameters * _BYTES[prepared.config.dtype]
        for parameters in (prepared.trained_parameters, prepared.stored_parameters)
    )
    learned = sum(stage.learn for stage in prepared.stages)
    keep = prepared.config.keep_stages
    kept = learned if keep == "all" else min(learned, 1 if keep == "last" else int(keep))
    return kept * stored, (stored + 2 * trained) * _CHECKPOINTS  # AdamW keeps two numbers beside each trained weight


def _pairs(settings: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "as transformers' defaults"
