"""What the terminal shows of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from seekr.errors import InputError
from seekr.run import Run

_MEASURES = (
    ("overall_performance", "OP"),
    ("backward_transfer", "BWT"),
    ("forgetting", "forgetting"),
    ("forward_transfer", "forward transfer"),
)


def print_scores(run: Run) -> None:
    """The score matrix: one line a stage, one column a task, and the numbers drawn from it."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    scores = run.scores
    table = Table(title=f"{run.record['config']['method']['name']}: scores 0..100 after each task")
    table.add_column("after")
    for task, metric in zip(scores.tasks, scores.metrics, strict=True):
        table.add_column(task if metric is None else f"{task}\n{metric}", justify="right")
    rows = zip(["(base model)", *scores.tasks], [scores.base, *scores.matrix], strict=True)
    for name, row in rows:
        if any(score is not None for score in row):
            table.add_row(name, *(number(score) for score in row))
    console.print(table)
    content = scores.to_json()
    found = [f"{label} {number(content[key])}" for key, label in _MEASURES if content[key] is not None]
    console.print("   ".join(found) or "nothing to sum up yet", highlight=False)
    console.print(f"run: {run.folder}", highlight=False, soft_wrap=True)


def print_heads(run: Run) -> None:
    """Which heads were chosen after each task, in the order of their importance."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    stages = [stage for stage in run.stages if stage.heads]
    if not stages:
        raise InputError(f"{run.folder}: no heads were chosen here; the method seekr chooses some after each task")
    for stage in stages:
        table = Table(title=f"{stage.name}: {sum(map(len, stage.heads.values()))} heads in {len(stage.heads)} layers")
        table.add_column("layer", justify="right")
        table.add_column("chosen heads, the most important first")
        table.add_column("their share of the layer's importance", justify="right")
        importance = stage.importance.get("importance")
        for layer, heads in sorted(stage.heads.items()):
            if importance is None:
                table.add_row(str(layer), " ".join(map(str, heads)), "")
                continue
            row = importance[layer]
            ordered = sorted(heads, key=lambda head: -float(row[head]))
            share = 100 * float(row[heads].sum() / row.sum()) if float(row.sum()) > 0 else 0.0
            table.add_row(str(layer), " ".join(map(str, ordered)), f"{share:.0f} %")
        console.print(table)


def print_memory(run: Run) -> None:
    """What is kept of each task."""
    kept = [(stage.name, stage.memory.summary()) for stage in run.stages if stage.memory is not None]
    if not kept:
        raise InputError(f"{run.folder}: nothing is kept here; the methods replay, derpp and seekr keep samples")
    table = Table(title="kept of each task")
    for heading in ("task", "samples", "tokens", "heads", "queries", "form", "size", "floor"):
        table.add_column(heading, justify="left" if heading in ("task", "form") else "right")
    for name, summary in kept:
        heads = f"{summary['heads']} in {summary['layers']} layers" if summary["heads"] else "–"
        queries = "all" if summary["queries"] is None else str(summary["queries"])
        floor = summary.get("attention_floor")
        table.add_row(
            name,
            str(summary["samples"]),
            f"{summary['tokens']} ({summary['answer_tokens']} of answers)",
            heads,
            queries if summary["heads"] else "–",
            ", ".join(summary["forms"]) or "–",
            size(summary["bytes"]),
            "–" if floor is None else f"{floor:.2g}",
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if any("attention_floor" in summary for _, summary in kept):
        console.print(
            "floor: attention loss of the very model that was remembered, in nats: what the stored form costs"
        )


def print_status(run: Run) -> None:
    """How far each task is, what was scored, and how to go on."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    statuses = run.status()
    table = Table(title=f"{run.folder}")
    table.add_column("")
    table.add_column("task")
    table.add_column("state")
    for index, status in enumerate(statuses):
        state = f"stopped at step {status.step}" if status.state == "stopped" else status.state
        table.add_row(str(index), status.name, state)
    console.print(table)
    scores = run.scores if (run.folder / "scores.json").is_file() else None
    measured = 0 if scores is None else sum(score is not None for row in scores.matrix for score in row)
    console.print(f"{measured} cells of the score matrix are measured", highlight=False)
    if any(status.state != "done" for status in statuses):
        console.print("the `seekr learn` command of this run goes on from here")


def number(value: float | None) -> str:
    """A score for people: one decimal, – where it was not measured."""
    return "–" if value is None else f"{value:.1f}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
