"""What a run would do, without doing it: tasks, rows, steps, kept samples and disk."""

from __future__ import annotations

from collections.abc import Sequence

from seekr.distributed.processes import process_count
from seekr.nested import as_in_yaml
from seekr.planning.disk import disk
from seekr.planning.rows import StageRows, plan_steps
from seekr.progress import Text
from seekr.report.blocks import Blocks
from seekr.report.tables import print_fact, print_table
from seekr.report.terminal import plain_table, readable_bytes
from seekr.runs.guard import guard_warnings
from seekr.runs.prepare import RunSpec
from seekr.scoring.cells import wanted_cells


def print_plan(spec: RunSpec, folders: Sequence[str]) -> None:
    """Prints what `seekr learn` would do for a checked request. Touches nothing.

    `folders`: of all its seeds, which differ in nothing else that is shown.
    """
    config = spec.config
    print_fact("model", f"{config.model}, {config.dtype}, {spec.max_length} tokens at most")
    settings = {key: value for key, value in spec.method.settings().items() if key != "name"}
    print_fact("method", f"{spec.method.name}{': ' + _pairs(settings) if settings else ''}")
    print_fact("training", _pairs(spec.training))
    if config.lora:
        print_fact("lora", _pairs(config.lora))
    if spec.vllm_version is not None:
        print_fact("answers by", f"vllm {spec.vllm_version}, {_pairs(config.vllm or {}, 'its')}")
    for folder in folders:
        print_fact("output_dir", folder)
    counted = ("rows", "test", "task\nsteps", "replay\nsteps", "kept", "prompts\ncut", "answers\ncut")
    table = plain_table("", texts=["", "task"], numbers=counted)
    table.columns[0].no_wrap = True
    steps = plan_steps(
        [StageRows.of(stage) for stage in spec.stages], spec.method, spec.arguments, seed=config.seed,
        processes=process_count(), step_rows=spec.step_rows,
    )  # fmt: skip
    for stage, plan in zip(spec.stages, steps, strict=True):
        summaries = [data.summary for data in stage.data]
        state = " (done)" if stage.index < len(spec.finished) else "" if stage.learn else " (skill)"
        numbers = (
            sum(summary.rows for summary in summaries),
            sum(len(data.test) for data in stage.data),
            *((plan.task_steps, plan.replay_steps) if stage.learn else ("–", "–")),
            len(plan.kept),
            sum(summary.cut_prompts for summary in summaries),
            sum(summary.cut_answers for summary in summaries),
        )
        table.add_row(str(stage.index), stage.name + state, *map(str, numbers))
    print_table(Blocks(table, keys=2))
    cells = wanted_cells(config.cells, len(spec.tasks), joint=spec.joint)
    answers = sum(len(spec.tasks[column].test) for _, column in cells)
    print_fact("scores", f"cells {config.cells}: {len(cells)} of the matrix, {answers:,} test rows to answer in all")
    if spec.general is not None:
        print_fact("general", f"{len(spec.general.test)} rows, whose likelihood is measured at every stage")
    for warning in guard_warnings(spec.general, spec.tasks):
        print_table(Text(f"general: {warning}"))
    for note in spec.notes:
        print_table(Text(note))
    for data in spec.tasks:
        for warning in data.warnings():
            print_table(Text(f"{data.task.name}: {warning}"))
    counts = {"stored": spec.stored_parameters, "trained": spec.trained_parameters}
    saved = disk(config, spec.method, spec.arguments, steps, **counts)
    each = f"; for each of {len(folders)} folders" if len(folders) > 1 else ""
    stages, working = readable_bytes(saved.stages), readable_bytes(saved.checkpoints)
    print_fact(
        "disk",
        f"{stages} for the weights of the stages, {working} more while a task is learned, besides what is kept of the "
        f"tasks{each}",
    )
    print_table(Text("nothing was written (--dry-run)"))


def _pairs(settings: dict[str, object], whose: str = "transformers'") -> str:
    return ", ".join(f"{key} {as_in_yaml(value)}" for key, value in settings.items()) or f"as {whose} defaults"
