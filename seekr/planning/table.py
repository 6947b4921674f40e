"""What `seekr plan` shows: memory by part and moment, what is kept, disk and steps, and which sharding fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.table import Table

from seekr.planning.live import WEIGHTS
from seekr.planning.paper import OPTIMIZER
from seekr.planning.plan import Plan, optimizer_name
from seekr.planning.rows import Shape, StageSteps
from seekr.progress import Text
from seekr.report.terminal import plain_table, readable_bytes


def renderables(plan: Plan) -> Iterator[RenderableType]:
    """The whole plan, from its largest figure down."""
    yield Text("\n".join(headline(plan)))
    if plan.phases:
        yield memory_table(plan)
    if plan.ways:
        yield ways_table(plan)
    yield stages_table(plan)
    yield Text("\n".join(totals(plan)))
    yield Text("\n".join(f"note: {note}" for note in plan.notes))


def headline(plan: Plan) -> list[str]:
    """What is planned, in a few lines."""
    config, arguments = plan.run.config, plan.run.arguments
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "full"
    trained = "all trained" if plan.paper.trained == plan.paper.parameters else f"{plan.paper.trained:,} trained"
    base = f"{plan.paper.parameters:,} parameters"
    checkpointing = "with" if plan.paper.checkpointing else "without"
    return [
        f"model    {config.model}: {base}, {trained}, {config.dtype}, {precision} precision",
        f"method   {plan.run.method.name}; optimizer {optimizer_name(arguments)}; attention {plan.paper.attention}; "
        f"{checkpointing} gradient checkpointing",
        f"step     {arguments.per_device_train_batch_size} rows × {arguments.gradient_accumulation_steps} accumulated "
        f"× {plan.devices} device{'s' * (plan.devices > 1)}",
    ]


def memory_table(plan: Plan) -> Table:
    """Parts down, weights and optimizer first, then by size; moments of the run across, each where it holds most."""
    largest = plan.largest
    table = plain_table(
        "Memory of one device that holds all of it",
        f"each column at its own peak; the largest is the {largest.name}: {readable_bytes(largest.total)}",
        texts=["part"],
        numbers=[f"{phase.name}\n{shape_text(phase.shape)}" for phase in plan.phases],
    )
    sizes = {part: max(it.parts.get(part, 0) for it in plan.phases) for phase in plan.phases for part in phase.parts}
    for part in sorted(sizes, key=lambda part: (part not in (WEIGHTS, OPTIMIZER), -sizes[part])):
        counts = (phase.parts.get(part, 0) for phase in plan.phases)
        table.add_row(part, *(readable_bytes(count) if count else "" for count in counts))
    table.add_section()
    table.add_row("together", *(readable_bytes(phase.total) for phase in plan.phases), style="bold")
    return table


def shape_text(shape: Shape) -> str:
    """Such as "8 rows × 512"."""
    return f"{shape.rows} row{'s' * (shape.rows > 1)} × {shape.length:,}"


def ways_table(plan: Plan) -> Table:
    """Which ways of training fit the devices."""
    memory = plan.device_memory or 0
    count = f"{plan.devices} devices" if plan.devices > 1 else "one device"
    table = plain_table(
        f"What fits {count} of {readable_bytes(memory)}",
        "tight: above 90%, where fragments and the CUDA context may not fit any more; FSDP2 is an estimate",
    )
    table.add_column("spread by", no_wrap=True)
    table.add_column("a device\nneeds", justify="right", no_wrap=True)
    table.add_column("most in", overflow="fold")
    table.add_column("fits", no_wrap=True)
    for way in plan.ways:
        verdict = way.verdict(memory)
        style = {"yes": "bold green", "tight": "yellow", "no": ""}[verdict]
        table.add_row(way.sharding, readable_bytes(way.total), way.phase, Text(verdict, style))
    return table


def stages_table(plan: Plan) -> Table:
    """A line a task: its rows, its steps, and what is kept of it."""
    assumed = "* rows assumed, see the notes" if any(not it.rows.known for it in plan.stages) else None
    table = plain_table("Tasks", assumed, texts=["task"], numbers=list(_COLUMNS))
    for stage, kept in zip(plan.stages, plan.kept, strict=True):
        name = stage.rows.name + ("" if stage.rows.learn else " (skill)") + ("" if stage.rows.known else " *")
        table.add_row(Text(name), *(cell(stage, kept) for cell in _COLUMNS.values()))
    return table


def totals(plan: Plan) -> list[str]:
    """Steps, hours, what is kept and disk over the whole run."""
    tasks, replays = (sum(getattr(stage, key) for stage in plan.stages) for key in ("task_steps", "replay_steps"))
    hours = ""
    if plan.hours is not None:
        taken = f"{plan.hours:,.1f} hours" if plan.hours >= 1 else f"{60 * plan.hours:.1f} minutes"
        hours = f", {taken} at {plan.throughput:,.0f} tokens a second"
    disk, kept = plan.disk, sum(len(stage.kept) for stage in plan.stages)
    limit = plan.run.method.settings().get("replay_limit")
    limited = f"; a task replays {limit:,} of them at most" if limit is not None and limit < kept else ""
    saved = f"{disk.kept_stages} stage{'s' * (disk.kept_stages > 1)} × {readable_bytes(disk.one_stage)}"
    return [
        f"steps    {tasks + replays:,} ({replays:,} of them replay), {readable_tokens(plan.tokens)} tokens{hours}",
        f"kept     {kept:,} rows of past tasks with their teachers, {readable_bytes(sum(plan.kept))}" + limited,
        f"disk     {readable_bytes(disk.stages)} for the weights of {saved} (keep_stages: "
        f"{plan.run.config.keep_stages}), {readable_bytes(disk.checkpoints)} more for {disk.most_checkpoints} "
        f"checkpoint{'s' * (disk.most_checkpoints > 1)} while a task is learned",
    ]


def readable_tokens(count: int) -> str:
    """Three digits and a unit: 1234567 is "1.23 M"."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


_COLUMNS: dict[str, Callable[[StageSteps, int], str]] = {
    "rows": lambda stage, _: f"{len(stage.rows.sizes):,}",
    "task\nsteps": lambda stage, _: f"{stage.task_steps:,}" if stage.rows.learn else "–",
    "replay\nsteps": lambda stage, _: f"{stage.replay_steps:,}" if stage.rows.learn else "–",
    "tokens": lambda stage, _: readable_tokens(stage.task_tokens + stage.replay_tokens),
    "kept\nrows": lambda stage, _: f"{len(stage.kept):,}",
    "kept": lambda _, kept: readable_bytes(kept) if kept else "",
}
