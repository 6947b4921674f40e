"""Which cells of the score matrix are wanted, and what they are called."""

from __future__ import annotations

from typing import Literal

JOINT = "joint"
"""The method, and the only stage, that learns all tasks at once."""

BASE = -1
"""The row of the base model, before anything was learned."""

GENERAL = -1
"""The column of the guard: rows that no task trains on, scored in every row."""

_FEW = 6


def default_cells(tasks: int) -> Literal["paper", "seen"]:
    """What `cells` is where nobody says: "seen" shows when a task was lost, and its cost grows with the square of the
    number of tasks, so that more than six have "paper"."""
    return "seen" if tasks <= _FEW else "paper"


def wanted_cells(cells: str, tasks: int, *, joint: bool = False, general: bool = False) -> list[tuple[int, int]]:
    """The (row, column) pairs of a run of `tasks` tasks: row i = after task i, column j = task j, BASE = base model.

    "paper" is the diagonal and the last row, "seen" every task so far after each task, "all" every task after each
    task and before the first. A joint run has one stage, after all tasks: the last row ("all": and BASE). A `general`
    guard is wanted in BASE and every row, whatever `cells` says.
    """
    last = tasks - 1
    rows = [last] if joint else list(range(tasks))
    wanted = [
        (row, column)
        for row in rows
        for column in range(tasks)
        if row == last or column == row or cells == "all" or (cells == "seen" and column < row)
    ]
    base = [(BASE, column) for column in range(tasks)] if cells == "all" else []
    return base + wanted + [(row, GENERAL) for row in [BASE, *rows] if general]


def cell_name(row: int, column: int) -> str:
    """What the file of a cell's answers is called."""
    return f"{row_name(row)}-{column_name(column)}"


def row_name(row: int) -> str:
    """How the file of a cell's answers names its row."""
    return "base" if row == BASE else str(row)


def column_name(column: int) -> str:
    """How the file of a cell's answers names its column."""
    return "general" if column == GENERAL else str(column)
