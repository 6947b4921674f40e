"""A comparison of runs for other programs and for papers: CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from seekr.disk.files import json_text
from seekr.report.comparison import Comparison
from seekr.report.side_by_side import cell
from seekr.report.summary import Spread


def csv_text(comparison: Comparison) -> str:
    """One header line, a line a row: unrounded means, their standard deviations, and half of their 95% intervals.

    What was not measured is empty, and so are the last two of one seed.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [*comparison.measures, *comparison.tasks, *comparison.general]
    columns = [f"{name}_{it}" for name in names for it in ("mean", "sd", "ci95")]
    writer.writerow(["run", "method", "seeds", "seed_list", *columns])
    for row in comparison.rows:
        numbers = [number for spread in comparison.spreads(row) for number in _numbers(spread)]
        writer.writerow([row.name, row.method, len(row.runs), " ".join(map(str, row.seeds)), *numbers])
    return out.getvalue()


def as_json_text(comparison: Comparison) -> str:
    """The same as JSON: each number as `_spread` has it, or null where it was not measured."""
    rows = [
        {
            "run": row.name,
            "method": row.method,
            "seeds": list(row.seeds),
            "measures": {field: _spread(row.measure(field)) for field in comparison.measures},
            "tasks": {task: _spread(row.task(task)) for task in comparison.tasks},
            "general": {name: _spread(row.general.get(name)) for name in comparison.general},
        }
        for row in comparison.rows
    ]
    return json_text({"rows": rows, "notes": list(comparison.notes)})


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    """Mean, standard deviation, half of the 95% interval of the mean, and the values of the seeds."""
    if spread is None:
        return None
    return {"mean": spread.mean, "sd": spread.deviation, "ci95": spread.half, "values": list(spread.values)}


def markdown_text(comparison: Comparison) -> str:
    """A table whose columns are aligned in the text too, rounded as on the terminal; rows are named as by `_names`."""
    head, *names = _names(comparison)
    rows = [name + list(map(cell, comparison.spreads(row))) for name, row in zip(names, comparison.rows, strict=True)]
    return markdown_table(head + comparison.headings, rows, words=len(head) - 1)


def latex_text(comparison: Comparison) -> str:
    """A `tabular` for the package booktabs, with the same texts; the best mean of a column is bold."""
    head, *names = _names(comparison)
    columns = zip(*map(comparison.spreads, comparison.rows), strict=True)
    best = [_best(column, low=place == comparison.forgetting) for place, column in enumerate(columns)]
    lines = [list(map(_latex, head + comparison.headings))]
    for name, row in zip(names, comparison.rows, strict=True):
        pairs = zip(comparison.spreads(row), best, strict=True)
        lines.append([*map(_latex, name), *(_latex_number(spread, best=top) for spread, top in pairs)])
    top, *rows = (f"{' & '.join(line)} \\\\\n" for line in lines)
    sides = "l" * (len(head) - 1) + "r" * (len(comparison.headings) + 1)
    begin = f"\\begin{{tabular}}{{{sides}}}\n\\toprule\n"
    return f"{begin}{top}\\midrule\n{''.join(rows)}\\bottomrule\n\\end{{tabular}}\n"


def _names(comparison: Comparison) -> list[list[str]]:
    """What a table for readers calls the rows by, and each row so: its folder only where two have one method's name."""
    lines = [["run", "method", "seeds"], *([row.name, row.method, str(len(row.runs))] for row in comparison.rows)]
    methods = {row.method for row in comparison.rows}
    return [line[1:] for line in lines] if len(methods) == len(comparison.rows) else lines


def _best(column: Sequence[Spread | None], *, low: bool) -> float | None:
    means = [spread.mean for spread in column if spread is not None]
    return (min if low else max)(means) if len(means) > 1 else None


def _latex_number(spread: Spread | None, *, best: float | None) -> str:
    if spread is None:
        return "--"
    mean, _, deviation = str(spread).replace("−", "-").partition(" ± ")
    bold = f"\\mathbf{{{mean}}}" if spread.mean == best else mean
    return f"${bold} \\pm {deviation}$" if deviation else f"${bold}$"


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(char, f"\\{char}" if char in "&%$#_{}" else char) for char in text)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    """A Markdown table; the first `words` columns stand to the left, the numbers after them to the right."""
    lines = [[text.replace("\\", "\\\\").replace("|", "\\|") for text in line] for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if number < words else ">" for number in range(len(head))]
    texts = [[f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)] for line in lines]
    rule = ["-" * width if side == "<" else "-" * (width - 1) + ":" for side, width in zip(sides, widths, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (texts[0], rule, *texts[1:]))


def _numbers(spread: Spread | None) -> list[float | str]:
    numbers = [None] * 3 if spread is None else [spread.mean, spread.deviation, spread.half]
    return ["" if number is None else number for number in numbers]
