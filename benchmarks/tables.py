"""The tables of the README, from the JSON in `benchmarks/results`: no figure there is typed by hand.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

from seekr.bench.tables import Cells, Rows, bytes_cells, sensitivity_cells, step_cells

RESULTS = Path(__file__).parent / "results"


def tables() -> dict[str, str]:
    """Name → Markdown table."""
    demo = _rows("demo.json")
    bench = _rows("bench.json")
    by_kind = {kind: [row for row in bench if row["what"] == kind] for kind in ("step", "bytes", "sensitivity")}
    return {
        "demo": demo_table(demo),
        "step": _of_cells(step_cells(by_kind["step"])),
        "bytes": _of_cells(bytes_cells(by_kind["bytes"])),
        "sensitivity": _of_cells(sensitivity_cells(by_kind["sensitivity"])),
    }


def demo_table(rows: Rows) -> str:
    """Mean ± standard deviation over the seeds."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        found.append([f"`{method}`", *(_spread([row[key] for row in own]) for key in _SCORES)])
    return _markdown(["method", "overall performance", "backward transfer"], found)


_SCORES = ("overall_performance", "backward_transfer")


def _rows(name: str) -> Rows:
    return list(json.loads((RESULTS / name).read_text())["rows"])


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.1f} ± {stdev(known):.1f}" if len(known) > 1 else ""


def _of_cells(cells: Cells) -> str:
    return _markdown(cells.headings, cells.rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for title, text in tables().items():
        print(f"{title}\n\n{text}\n")
