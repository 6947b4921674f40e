"""The bench's rows as tables of text, for the terminal and for the README alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Cells:
    """A table of text: a title, headings, and rows of as many cells."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def step_cells(rows: Rows) -> Cells:
    """Times and peaks of a replay step as ratios to the step without attention distillation."""
    plain = {row["length"]: row for row in rows if row["path"] == "plain"}
    found = []
    for row in rows:
        base = plain[row["length"]]
        name = {"plain": "without", "eager": "by built maps"}.get(row["path"], "seekr, ")
        queries = "" if row["path"] != "seekr" else "all queries" if row["queries"] is None else "100 queries"
        ratios = [f"{row[key] / base[key]:.2f}" for key in ("seconds", "peak_bytes")]
        peak = f"{row['peak_bytes'] / 1e6:.0f} MB"
        found.append([str(row["length"]), name + queries, f"{row['seconds']:.2f} s", ratios[0], peak, ratios[1]])
    headings = ["tokens", "attention distillation", "a step", "× time", "peak memory", "× peak"]
    return Cells("one optimizer step on a replay batch, medians", headings, found)


def bytes_cells(rows: Rows) -> Cells:
    """What is kept of one sample, beside the released code's form."""
    return Cells(
        "bytes of one replay sample: Llama-2-7B shape, 1024 tokens, 128 heads in 24 layers",
        ["kept as", "queries", "MB", "released code, MB", "share", "error of the loss", "cosine of its gradient"],
        [
            [
                row["form"],
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


def sensitivity_cells(rows: Rows) -> Cells:
    """Time beyond forward and backward, for one layer of 8 heads."""
    return Cells(
        "sensitivity: time beyond forward and backward, a layer of 8 heads",
        ["tokens", "ms", "µs a token"],
        [
            [str(row["length"]), f"{row['seconds'] * 1e3:.1f}", f"{row['seconds'] / row['length'] * 1e6:.1f}"]
            for row in rows
        ],
    )
