"""Tables on narrow terminals: one with more columns than fit comes in blocks of the columns that do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

_WORDS = 16
"""Columns of the terminal that a text may be folded to, and no fewer."""


class Blocks:
    """A table whose first `keys` columns begin every block; a block holds as many of the others as the width allows.

    Columns of text are folded before the table is cut into blocks, numbers (`no_wrap`) are shown whole.
    """

    def __init__(self, table: Table, keys: int = 1) -> None:
        self.table, self.keys = table, keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(columns: Sequence[Column]) -> bool:
            unlimited = options.update(width=10_000)
            return Measurement.get(console, unlimited, self._table(columns)).maximum <= options.max_width

        columns = self.table.columns
        if fits([_folded(column, _WORDS) for column in columns]):
            yield self.table
            return
        keys = [_folded(column, max(_WORDS, options.max_width // 3)) for column in columns[: self.keys]]
        blocks: list[list[Column]] = [[]]
        for column in columns[self.keys :]:
            folded = _folded(column, _WORDS)
            if blocks[-1] and not fits([*keys, *blocks[-1], folded]):
                blocks.append([])
            blocks[-1].append(folded)
        for place, block in enumerate(blocks):
            table = self._table([*keys, *block])
            table.title = self.table.title if place == 0 else None
            table.caption = self.table.caption if place == len(blocks) - 1 else None
            yield table

    def _table(self, columns: Sequence[Column]) -> Table:
        table = copy.copy(self.table)
        table.columns = [replace(column, _index=place) for place, column in enumerate(columns)]
        return table


def _folded(column: Column, most: int) -> Column:
    """A column no wider than the terminal's columns that it may be folded to."""
    return column if column.no_wrap else replace(column, max_width=most)
