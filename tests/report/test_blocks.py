"""Tables on narrow terminals: whole numbers, every column once, and each row's name next to them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from seekr.report.blocks import Blocks
from seekr.report.terminal import memory_table, plain_table

NAMES = ("C-STANCE", "NumGLUE-cm", "a")
HEADINGS = ("samples", "tokens", "heads", "layers", "queries", "steps")


def printed(table: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def numbers() -> Table:
    table = plain_table("Title", "caption")
    table.add_column("", no_wrap=True)
    table.add_column("task", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row, name in enumerate(NAMES):
        table.add_row(str(row), name, *(f"{row + 1},{column}00" for column in range(len(HEADINGS))))
    return table


@pytest.mark.parametrize("width", range(32, 100, 3))
def test_every_number_is_whole_and_next_to_its_name(width: int) -> None:
    lines = printed(Blocks(numbers(), keys=2), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for heading in HEADINGS:
        assert len(re.findall(rf"\b{heading}\b", text)) == 1
    for row, name in enumerate(NAMES):
        own = [line for line in lines if re.match(rf" ?{row} +{name} ", line)]
        found = [cell for line in own for cell in line.split()[2:]]
        assert found == [f"{row + 1},{column}00" for column in range(len(HEADINGS))]
    assert text.count("Title") == text.count("caption") == 1


def test_table_that_fits_is_left_as_it_is() -> None:
    assert printed(Blocks(numbers(), keys=2), 100) == printed(numbers(), 100)


def test_memory_keeps_its_task_column_at_50_columns() -> None:
    counts = {"samples": 20, "tokens": 1000, "answer_tokens": 50, "heads": 128, "layers": 24, "queries": 100}
    kept = [{"task": name, **counts, "forms": ["keys and queries"], "bytes": 600_000_000} for name in NAMES]
    lines = printed(Blocks(memory_table(kept)), 50)
    blocks = sum(line.split()[:1] == ["task"] for line in lines)
    assert blocks > 1
    for name in (*NAMES, "together"):
        assert sum(line.split()[:1] == [name] for line in lines) == blocks
