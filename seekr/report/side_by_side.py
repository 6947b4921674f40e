"""Runs side by side on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from seekr.progress import Text
from seekr.report.blocks import Blocks
from seekr.report.comparison import HEADINGS, Comparison, ComparisonRow
from seekr.report.folding import LINES, stretches, telling
from seekr.report.summary import SPREAD, Spread, decimal
from seekr.runs.run import Run, TaskStatus

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A heading and a cell for each row; numbers stand to the right."""

    heading: str
    cells: Sequence[str]
    number: bool = True


def side_by_side(columns: Sequence[Column], *, title: str = "", caption: str = "") -> Blocks:
    """The columns as a table, in blocks that fit; those of numbers are not folded."""
    table = Table(title=Text(title) if title else None, caption=Text(caption) if caption else None)
    table.title_justify = table.caption_justify = "left"
    for place, column in enumerate(columns):
        number = column.number and place > 0
        table.add_column(Text(column.heading), justify="right" if number else "left", no_wrap=number, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return Blocks(table)


def comparison_table(comparison: Comparison) -> Blocks:
    """A row for each configuration: its measures, the score of each task after the last one, and general ability."""
    rows = comparison.rows
    columns = [
        Column("run", [row.name for row in rows], number=False),
        Column("method", [row.method for row in rows], number=False),
        Column("seeds", [str(len(row.runs)) for row in rows]),
        *(
            Column(heading, [cell(comparison.spreads(row)[place]) for row in rows])
            for place, heading in enumerate(comparison.headings)
        ),
    ]
    return side_by_side(columns, caption=SPREAD if any(len(row.runs) > 1 for row in rows) else "")


def seeds_table(runs: Sequence[Run]) -> Blocks:
    """The seeds of one run: measures, then the last row of the matrix, down; the mean, then each seed, across.

    Of more than 20 tasks those that tell most.
    """
    every = ComparisonRow("", "", tuple(runs))
    known = list(dict.fromkeys(task for run in runs for task in run.final))
    tasks = [known[place] for place in telling([run for run in runs if run.scored], LINES)]
    fields = [field for field in HEADINGS if any(run.measure(field) is not None for run in runs)]
    columns = [
        Column("", [*(HEADINGS[field] for field in fields), *tasks], number=False),
        Column("mean ± 95%" if len(runs) > 1 else "mean", [cell(it) for it in _values(every, fields, tasks)]),
    ]
    for run in runs:
        values = [*(run.measure(field) for field in fields), *(run.final.get(task) for task in tasks)]
        columns.append(Column(f"seed {run.seed}", [NOTHING if value is None else decimal(value) for value in values]))
    title = f"{runs[0].method}: after the last task" if runs[0].scored else f"{runs[0].method}: nothing scored yet"
    left = f"{len(known) - len(tasks)} tasks between are in scores.json" if len(tasks) < len(known) else ""
    return side_by_side(columns, title=title, caption="; ".join(filter(None, [SPREAD if len(runs) > 1 else "", left])))


def status_table(title: str, statuses: Mapping[str, Sequence[TaskStatus]]) -> Blocks:
    """How far each task is, down, in each run, across; `statuses` are those of `Run.status()` by the run's name."""
    names = list(dict.fromkeys(status.name for found in statuses.values() for status in found))
    by_run = [{status.name: str(status) for status in found} for found in statuses.values()]
    states = [tuple(by_name.get(name, NOTHING) for by_name in by_run) for name in names]
    lines = list(stretches(states))
    tasks = [names[place] if length == 1 else f"… {length} tasks" for place, length in lines]
    columns = [Column("task", tasks, number=False)]
    for number, run in enumerate(statuses):
        columns.append(Column(run, [states[place][number] for place, _ in lines], number=False))
    return side_by_side(columns, title=title)


def cell(spread: Spread | None) -> str:
    """Mean ± half of its 95% interval, rounded; a dash where nothing was measured."""
    return NOTHING if spread is None else str(spread)


def _values(row: ComparisonRow, fields: Sequence[str], tasks: Sequence[str]) -> list[Spread | None]:
    return [*(row.measure(field) for field in fields), *(row.task(task) for task in tasks)]
