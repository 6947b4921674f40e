"""The tables of the README, from the JSON in `benchmarks/results`: no figure there is typed by hand.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path(__file__).parent / "results"

Rows = list[dict[str, Any]]


def tables() -> dict[str, str]:
    """Name → Markdown table."""
    demo = _rows("demo.json")
    bench = _rows("bench.json")
    by_kind = {kind: [row for row in bench if row["what"] == kind] for kind in ("step", "bytes", "sensitivity")}
    return {
        "demo": demo_table(demo),
        "step": step_table(by_kind["step"]),
        "bytes": bytes_table(by_kind["bytes"]),
        "sensitivity": sensitivity_table(by_kind["sensitivity"]),
    }


def demo_table(rows: Rows) -> str:
    """Mean ± standard deviation over the seeds."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        found.append([f"`{method}`", *(_spread([row[key] for row in own]) for key in _SCORES)])
    return _markdown(["method", "overall performance", "backward transfer"], found)


def step_table(rows: Rows) -> str:
    """Times and peaks of a replay step as ratios to the step without attention distillation."""
    plain = {row["length"]: row for row in rows if row["path"] == "plain"}
    found = []
    for row in rows:
        base = plain[row["length"]]
        name = {"plain": "without", "eager": "by built maps"}.get(row["path"], "seekr, ")
        queries = "" if row["path"] != "seekr" else "all queries" if row["queries"] is None else "100 queries"
        ratios = [f"{row[key] / base[key]:.2f}" for key in ("seconds", "peak_bytes")]
        found.append([str(row["length"]), name + queries, f"{row['seconds']:.2f} s", *ratios])
    return _markdown(["tokens", "attention distillation", "a step", "× time", "× peak memory"], found)


def bytes_table(rows: Rows) -> str:
    """What is kept of one sample, beside the released code's form."""
    return _markdown(
        ["kept as", "queries", "MB", "released code, MB", "share", "error of the loss", "cosine of its gradient"],
        [
            [
                f"`{row['form']}`",
                "all" if row["queries"] is None else str(row["queries"]),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['released_bytes'] / 1e6:.1f}",
                f"{row['bytes'] / row['released_bytes']:.3f}",
                f"{row['loss_error']:.1e}",
                f"{row['gradient_cosine']:.4f}",
            ]
            for row in rows
        ],
    )


def sensitivity_table(rows: Rows) -> str:
    """Time beyond forward and backward, for one layer of 8 heads."""
    found = [
        [str(row["length"]), f"{row['seconds'] * 1e3:.1f}", f"{row['seconds'] / row['length'] * 1e6:.1f}"]
        for row in rows
    ]
    return _markdown(["tokens", "ms", "µs a token"], found)


_SCORES = ("overall_performance", "backward_transfer")


def _rows(name: str) -> Rows:
    return list(json.loads((RESULTS / name).read_text())["rows"])


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.1f} ± {stdev(known):.1f}" if len(known) > 1 else ""


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for title, text in tables().items():
        print(f"{title}\n\n{text}\n")
