"""What the terminal shows of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from seekr.attention.weight import weight_advice
from seekr.data.checking import FolderCheck
from seekr.disk.files import STDOUT, check_writable, write_atomically
from seekr.errors import hand_over, show_text
from seekr.progress import Terminal, Text
from seekr.report.answer import answers
from seekr.report.as_json import kept_of_tasks, replayed, stages_with_heads
from seekr.report.blocks import Blocks
from seekr.report.check_tables import findings, rows_table, tokens_table
from seekr.report.comparison import HEADINGS, Comparison
from seekr.report.exports import as_json_text, csv_text, latex_text, markdown_text
from seekr.report.facts import weights_of
from seekr.report.folding import few, stretches
from seekr.report.general import general_lines
from seekr.report.grafting import grafted_table, verdicts_of
from seekr.report.side_by_side import NOTHING, Column, comparison_table, seeds_table, side_by_side, status_table
from seekr.report.summary import decimal, summarize
from seekr.report.terminal import HEADS, heads_table, memory_table, score_table
from seekr.runs.grafted import GRAFT_FILE, Grafted
from seekr.runs.lost_stages import lost
from seekr.runs.run import Run


def console() -> Console:
    """Our texts are no markup, and lines of them are not broken where someone reads them by a script."""
    return Terminal(highlight=False, markup=False, soft_wrap=True)


def print_table(table: RenderableType) -> None:
    """A table in blocks that fit the terminal; whole lines where the output goes to a file or a script."""
    out = console()
    table = Blocks(table) if isinstance(table, Table) else table
    out.print(table, soft_wrap=not out.is_terminal)


def print_fact(name: str, text: str) -> None:
    """A name and what there is to say of it, wrapped next to the name on a terminal; one line in a file or a script."""
    out = console()
    if not out.is_terminal:
        out.print(f"{name:<12}{text}")
        return
    grid = Table.grid()
    grid.add_column(width=12)
    grid.add_column(overflow="fold")
    grid.add_row(Text(name), Text(text))
    out.print(grid, soft_wrap=False)


def print_scores(run: Run) -> None:
    """What the run came to, the score matrix and the numbers drawn from it, and what to do next."""
    for answer in answers(summarize([run])):
        print_table(Text(str(answer)))
    print_table(score_table(run))
    scores = run.scores.to_json()
    found = [f"{label} {decimal(scores[key])}" for key, label in HEADINGS.items() if scores[key] is not None]
    if found:
        console().print("   ".join(found))
    print_general(run)
    console().print(f"run: {run.folder}")
    if run.finished:
        print_fact("next", f"seekr check {run.folder}")
        for command in ("seekr chat {}", "seekr export {} --output DIR", "seekr report {}"):
            print_fact("", command.format(run.folder))
        model = next((stage.model for stage in reversed(run.stages) if stage.model is not None), None)
        if model is not None:
            print_fact("model", str(run.folder / "model" if (run.folder / "model").is_dir() else model))


def print_general(run: Run, name: str = "") -> None:
    """What became of general ability, where it is watched; `name`: which run of several it is."""
    for line in general_lines(run):
        print_table(Text(f"{name}: {line}" if name else line))


def print_seeds(runs: Sequence[Run]) -> None:
    """The measures and the last row of each seed, with mean and standard deviation."""
    print_table(seeds_table(runs))
    for run in runs:
        print_general(run, f"seed {run.seed}")
    console().print(f"runs: {', '.join(str(run.folder) for run in runs)}")


def print_comparison(comparison: Comparison, shown: Comparison, **files: Path | None) -> None:
    """Runs in one table, on the terminal and in files by their form: csv, json, latex, markdown.

    What people read has the columns that are `shown`. A file named - is stdout, and takes the table's place.
    """
    forms = {
        "csv": partial(csv_text, comparison),
        "json": partial(as_json_text, comparison),
        "latex": partial(latex_text, shown),
        "markdown": partial(markdown_text, shown),
    }
    texts = [(path, forms[name]()) for name, path in files.items() if path]
    piped = any(path == STDOUT for path, _ in texts)
    for name, path in files.items():
        check_writable(path, f"--{name}")
    for path, text in texts:
        if path == STDOUT:
            hand_over(text)
        else:
            write_atomically(path, text)
    if not piped:
        print_table(comparison_table(shown))
    for note in shown.notes:
        show_text(f"note: {note}", file=sys.stderr if piped else sys.stdout)


def print_heads(run: Run) -> None:
    """Importance of all heads after each task, which were chosen, and whether they carry the tasks if that is known."""
    for stage in stages_with_heads(run):
        print_table(heads_table(stage))
    print_table(Text(HEADS, "dim italic"))
    for line in verdicts_of(run, run.grafted):
        print_table(Text(line))


def print_grafted(run: Run, found: Sequence[Grafted]) -> None:
    """What was found of a run just now."""
    print_table(grafted_table(found))
    for line in verdicts_of(run, found):
        print_table(Text(line))
    console().print(f"kept: {run.folder / GRAFT_FILE}")


def print_memory(run: Run) -> None:
    """What is kept of each task, and what the stored form of its attention costs."""
    summaries = kept_of_tasks(run)
    print_table(memory_table(summaries))
    floors = [f"{it['task']} {it['attention_floor']:.1e}" for it in summaries if it.get("attention_floor") is not None]
    if any("replayed" in it for it in summaries):
        kept, some = (sum(it[key] for it in summaries) for key in ("samples", "replayed"))
        each = ", ".join(f"{it['task']} {it['replayed']}" for it in summaries)
        print_table(Text(f"replay_limit: the next task replays {some:,} of {kept:,} kept rows: {each}"))
    if floors:
        print_table(Text(f"attention loss of the very model that was remembered, in nats: {', '.join(floors)}"))
    own = [f"{it['task']} {it['own_answers']} of {it['samples']}" for it in summaries if "own_answers" in it]
    if own:
        print_table(Text(f"the model's own answers stand in place of stored ones: {', '.join(own)}"))


def print_status(run: Run) -> None:
    """How far each task is, what was scored, and how to go on."""
    statuses = run.status()
    table = Table("", "task", "state", title=str(run.folder), title_justify="left")
    for place, length in stretches(list(map(str, statuses))):
        name = Text(statuses[place].name) if length == 1 else f"… {length} tasks"
        table.add_row(str(place), name, str(statuses[place]))
    print_table(Blocks(table, keys=2))
    measured = 0 if run.scored is None else sum(score is not None for row in run.scored.matrix for score in row)
    nothing = "nothing is scored yet" + f"; `seekr evaluate {run.folder}` does it" * run.finished
    print_table(Text(f"{measured} cells of the score matrix are measured" if measured else nothing))
    if run.scored is not None:
        print_table(score_table(run))
    print_general(run)
    if run.attention_weights:
        print_table(Text(f"attention weight: {', '.join(few(weights_of(run)))}"))
    if limited := replayed(run):
        each = [f"{task} {some:,} of {kept:,}" for task, (some, kept) in limited.items()]
        print_table(Text(f"replay_limit: kept rows that were replayed: {', '.join(few(each))}"))
    advice = weight_advice(run.record["config"]["method"].get("attention_weight"), run.attention_drift)
    if advice:
        print_table(Text(advice))
    if any(status.state != "done" for status in statuses):
        print_table(Text(lost(run.folder) or "the `seekr learn` command of this run goes on from here"))


def print_check(check: FolderCheck) -> None:
    """What a folder of tasks holds, and what is wrong with it."""
    if check.tasks:
        print_table(Blocks(rows_table(check), keys=2))
    if any(split.tokens for task in check.tasks for split in task.splits.values()):
        print_table(Blocks(tokens_table(check), keys=2))
    for line in findings(check):
        print_table(Text(line))


def print_status_of_runs(folder: Path, runs: Sequence[Run]) -> None:
    """The runs below a folder, a line each: how far they are and what they came to."""
    scores = [run.measure("overall_performance") for run in runs]
    columns = [
        Column("run", [str(run.folder.relative_to(folder)) for run in runs], number=False),
        Column("method", [run.method for run in runs], number=False),
        Column("seed", [str(run.seed) for run in runs]),
        Column("tasks", [f"{len(run.stages)} of {run.planned}" for run in runs]),
        Column("overall\nperformance", [NOTHING if score is None else decimal(score) for score in scores]),
    ]
    print_table(side_by_side(columns, title=str(folder)))


def print_status_of_seeds(folder: Path, runs: Sequence[Run]) -> None:
    """How far each task of each seed is; a seed that was not begun has no folder to be seen from."""
    statuses = {run.folder.name: run.status() for run in runs}
    print_table(status_table(str(folder), statuses))
    for run in runs:
        print_general(run, run.folder.name)
    if any(status.state != "done" for found in statuses.values() for status in found):
        torn = next(filter(None, (lost(run.folder) for run in runs)), None)
        console().print(torn or "the `seekr learn` command of these runs goes on from here")
