"""The bench's rows as one table of text, for the terminal and for the pages alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seekr.report.terminal import readable_bytes

Rows = list[dict[str, Any]]

HEADINGS = ["what", "case", "time", "× time", "bytes", "× bytes", ""]


@dataclass(frozen=True)
class Cells:
    """A table of text: headings, and rows of as many cells."""

    headings: list[str]
    rows: list[list[str]]


def bench_cells(rows: Rows) -> Cells:
    """A line a row; × is over the row that the measurement is beside, in the same run."""
    lines = {
        "step": _step_lines,
        "divergence": _divergence_lines,
        "task step": _task_step_lines,
        "bytes": _bytes_lines,
        "sensitivity": _sensitivity_lines,
    }
    kinds = dict.fromkeys(row["what"] for row in rows)
    return Cells(HEADINGS, [line for kind in kinds for line in lines[kind]([r for r in rows if r["what"] == kind])])


def _step_lines(rows: Rows) -> list[list[str]]:
    plain = {(row["model"], row["length"]): row for row in rows if row["path"] == "plain"}
    found = []
    for row in rows:
        base = plain[row["model"], row["length"]]
        seekr = f"seekr, {row['queries'] or 'all'} queries"
        way = {"plain": "no attention loss", "eager": "built maps"}.get(row["path"], seekr)
        case = f"{row['model']}, {row['length']} tokens: {way}"
        if row["seconds"] is None:
            found.append(["replay step", case, "", "", "does not fit", "", ""])
            continue
        seconds, peak = row["seconds"], row["peak_bytes"]
        own = f"own code {row['own_share']:.1%} of it" if row.get("own_share") else ""
        ratios = f"{seconds / base['seconds']:.2f}", f"{peak / base['peak_bytes']:.2f}"
        found.append(["replay step", case, _time(seconds), ratios[0], readable_bytes(peak), ratios[1], own])
    return found


def _divergence_lines(rows: Rows) -> list[list[str]]:
    ways = {"attention": "attention", "kernels": "divergence by kernels", "pytorch": "divergence by PyTorch"}
    found = []
    for row in rows:
        base = next(r for r in rows if r["path"] == "attention" and _case(r) == _case(row))
        speed = f"{row['operations'] / row['seconds'] / 1e12:.3g} TFLOP/s"
        built = "" if row["path"] == "attention" else f"; built maps: {readable_bytes(row['built_bytes'])}"
        found.append(
            [
                "layer, both passes",
                f"{row['heads']} heads, {row['key_heads']} of keys, {row['length']} tokens: {ways[row['path']]}",
                _time(row["seconds"]),
                f"{row['seconds'] / base['seconds']:.2f}",
                "" if row["peak_bytes"] is None else readable_bytes(row["peak_bytes"]),
                "",
                speed + built,
            ]
        )
    return found


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("device", "length", "heads", "key_heads", "head_size"))


def _task_step_lines(rows: Rows) -> list[list[str]]:
    base = next(row for row in rows if row["path"] == "padded")["seconds"]
    ways = {"padded": "padded rows, all logits", "seekr": "seekr"}
    return [
        [
            "task step",
            f"{row['model']}, {row['tokens']} tokens: {ways[row['path']]}",
            _time(row["seconds"]),
            f"{row['seconds'] / base:.2f}",
            "",
            "",
            f"{row['tokens'] / row['seconds']:,.0f} tokens a second",
        ]
        for row in rows
    ]


def _bytes_lines(rows: Rows) -> list[list[str]]:
    return [
        [
            "kept of a sample",
            f"{row['form']}, {'all' if row['queries'] is None else row['queries']} queries",
            "",
            "",
            readable_bytes(row["bytes"]),
            f"{row['bytes'] / row['released_bytes']:.3f}",
            f"error of the loss {row['loss_error']:.1e}, cosine of its gradient {row['gradient_cosine']:.4f}",
        ]
        for row in rows
    ]


def _sensitivity_lines(rows: Rows) -> list[list[str]]:
    return [
        [
            "sensitivity of a layer",
            f"{row['length']} tokens",
            _time(row["seconds"]),
            "",
            "",
            "",
            f"{row['seconds'] / row['length'] * 1e6:.1f} µs a token",
        ]
        for row in rows
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
