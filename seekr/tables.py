"""What the terminal shows of a run."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from seekr.errors import InputError
from seekr.report.check_tables import findings, rows_table, tokens_table
from seekr.report.data import read_run
from seekr.report.terminal import heads_table, memory_table, score_table
from seekr.run import Run
from seekr.tasks.checking import FolderCheck

_MEASURES = {
    "overall_performance": "OP",
    "backward_transfer": "BWT",
    "forgetting": "forgetting",
    "forward_transfer": "forward transfer",
}


def console() -> Console:
    """Our texts are no markup, and lines of them are not broken where someone reads them by a script."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def print_table(table: RenderableType) -> None:
    """A table as wide as the terminal; whole lines where the output goes to a file or a script."""
    out = console()
    out.print(table, soft_wrap=not out.is_terminal)


def print_scores(run: Run) -> None:
    """The score matrix and the numbers drawn from it."""
    print_table(score_table(read_run(run.folder)))
    scores = run.scores.to_json()
    found = [f"{label} {scores[key]:.1f}" for key, label in _MEASURES.items() if scores[key] is not None]
    if found:
        console().print("   ".join(found))
    console().print(f"run: {run.folder}")


def print_heads(run: Run) -> None:
    """Importance of all heads after each task, and which were chosen."""
    stages = [stage for stage in read_run(run.folder).stages if stage.heads]
    if not stages:
        raise InputError(f"{run.folder}: no heads were chosen here; the method seekr chooses some after each task")
    for stage in stages:
        print_table(heads_table(stage))


def print_memory(run: Run) -> None:
    """What is kept of each task, and what the stored form of its attention costs."""
    summaries = [stage.memory.summary() for stage in run.stages if stage.memory is not None]
    if not summaries:
        raise InputError(f"{run.folder}: nothing is kept here; the methods replay, derpp and seekr keep samples")
    print_table(memory_table(summaries))
    floors = [f"{it['task']} {it['attention_floor']:.1e}" for it in summaries if it.get("attention_floor") is not None]
    if floors:
        console().print(f"attention loss of the very model that was remembered, in nats: {', '.join(floors)}")


def print_status(run: Run) -> None:
    """How far each task is, what was scored, and how to go on."""
    statuses = run.status()
    table = Table("", "task", "state", title=str(run.folder), title_justify="left")
    for index, status in enumerate(statuses):
        state = f"stopped at step {status.step}" if status.state == "stopped" else status.state
        table.add_row(str(index), status.name, state)
    print_table(table)
    scores = run.scores if (run.folder / "scores.json").is_file() else None
    measured = 0 if scores is None else sum(score is not None for row in scores.matrix for score in row)
    console().print(f"{measured} cells of the score matrix are measured")
    if any(status.state != "done" for status in statuses):
        console().print("the `seekr learn` command of this run goes on from here")


def print_check(check: FolderCheck) -> None:
    """What a folder of tasks holds, and what is wrong with it."""
    if check.tasks:
        print_table(rows_table(check))
    if any(split.tokens for task in check.tasks for split in task.splits.values()):
        print_table(tokens_table(check))
    for line in findings(check):
        print_table(Text(line))
