"""The score matrix of many tasks as inline SVG: a path for each shade, not an element for each score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from seekr.report.charts import LEVELS, svg, svg_text
from seekr.report.run_view import MatrixRow

_SIDE, _LEFT, _TOP = 640, 34, 18


def score_map(rows: Sequence[MatrixRow], tasks: int, label: str) -> Markup:
    """Rows down, tasks across, both by their number from 1: 0 is pale, 100 dark, blank was not measured."""
    cell = max(3, min(12, _SIDE // tasks))
    lines = [""] * LEVELS
    for down, row in enumerate(rows):
        across = 0
        shades = [None if one is None else round(min(max(one.value, 0), 100) / 100 * (LEVELS - 1)) for one in row.cells]
        for shade, same in groupby(shades):
            width = len(list(same))
            if shade is not None:
                lines[shade] += f"M{_LEFT + across * cell} {_TOP + (down + 0.5) * cell:g}h{width * cell}"
            across += width
    path = Markup('<path class="l{}" stroke-width="{}" d="{}"/>')
    parts = [path.format(shade, cell, line) for shade, line in enumerate(lines) if line]
    every = 10 if tasks <= 100 else 25
    for task in (1, *range(every, tasks + 1, every)):
        parts.append(svg_text(_LEFT + (task - 0.5) * cell, _TOP - 6, task, "middle"))
    for down, row in enumerate(rows):
        if row.own is not None and (row.own == 0 or (row.own + 1) % every == 0):
            parts.append(svg_text(_LEFT - 5, _TOP + (down + 0.5) * cell + 4, row.own + 1, "end"))
    return svg(_LEFT + tasks * cell + 14, _TOP + len(rows) * cell + 4, label, parts)
