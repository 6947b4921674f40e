"""What a tuning came to: candidates by their score on eval rows, as a table, as JSON, and what the lead is worth."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seekr.errors import RunError
from seekr.report.comparison import HEADINGS, ComparisonRow
from seekr.report.side_by_side import Column, cell, side_by_side
from seekr.report.summary import SPREAD
from seekr.report.tables import console, print_table
from seekr.scoring.uncertainty import half_of_difference
from seekr.tuning.grid import Settings, short_keys, text_of, words_of

Result = tuple[Settings, ComparisonRow | str]
"""A candidate and its runs, or why it failed."""


def ranked(results: Sequence[Result]) -> list[Result]:
    """By overall performance, the best first; those that failed are the last."""

    def overall(result: Result) -> float:
        row = result[1]
        spread = None if isinstance(row, str) else row.measure("overall_performance")
        return -math.inf if spread is None else spread.mean

    return sorted(results, key=overall, reverse=True)


def describe(results: Sequence[Result], holdout: float | int | None) -> dict[str, Any]:
    """The content of table.json: unrounded numbers, the best candidate first."""
    rows = []
    for settings, result in ranked(results):
        row: dict[str, Any] = {"settings": settings}
        if isinstance(result, str):
            rows.append({**row, "failed": result})
            continue
        row |= {"folder": result.name, "seeds": list(result.seeds)}
        for field in HEADINGS:
            spread = result.measure(field)
            row |= {field: spread and spread.mean, f"{field}_sd": spread and spread.deviation}
            row[f"{field}_ci95"] = spread and spread.half
        rows.append(row)
    return {"split": "eval", "holdout": holdout, "rows": rows}


def print_results(results: Sequence[Result], fixed: Sequence[str], file: Path) -> None:
    """The table, what failed, and the words for `seekr learn`. Raises RunError where every candidate failed."""
    order = ranked(results)
    rows = [row if isinstance(row, ComparisonRow) else ComparisonRow("", "", ()) for _, row in order]
    columns = [
        Column("", [str(number) for number in range(1, len(order) + 1)]),
        *(
            Column(short, [text_of(settings[key]) for settings, _ in order])
            for short, key in zip(short_keys(order[0][0]), order[0][0], strict=True)
        ),
        *(
            Column(heading, [cell(row.measure(field)) for row in rows])
            for field, heading in HEADINGS.items()
            if any(row.measure(field) for row in rows)
        ),
    ]
    out = console()
    print_table(
        side_by_side(columns, title="scores on the eval split", caption=SPREAD if len(rows[0].runs) > 1 else "")
    )
    for number, (_, row) in enumerate(order, start=1):
        if isinstance(row, str):
            out.print(f"{number} failed: {row}")
    out.print(f"table: {file}")
    if not rows[0].runs:
        raise RunError(f"{file.parent}: no candidate could be learned")
    if len(rows) > 1 and rows[1].runs:
        out.print(how_sure(*rows[:2]))
    kept = [word for word in fixed if not word.startswith(("seed=", "seeds="))]
    out.print(f"best on the eval split: {shlex.join([*kept, *words_of(order[0][0])])}")


def how_sure(best: ComparisonRow, second: ComparisonRow) -> str:
    """What the lead of the best candidate over the second is worth."""
    first, next_one = best.measure("overall_performance"), second.measure("overall_performance")
    if first is None or next_one is None:
        return "nothing else was scored"
    lead = f"the first leads by {first.mean - next_one.mean:.1f}"
    if first.deviation is None or next_one.deviation is None:
        return f"{lead}, on one seed: how much of that is chance is not known; seeds=[0,1,2] tells more"
    half = half_of_difference(first.values, next_one.values)
    equal = ": the two may be equal" if first.mean - next_one.mean <= half else ""
    return f"{lead} ± {half:.1f} over the seeds{equal}"
