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
    """A line a row; × is over the row that the measurement is compared with, in the same run."""
    lines = {
        "step": _step_lines,
        "divergence": _divergence_lines,
        "task step": _task_step_lines,
        "bytes": _bytes_lines,
        "sensitivity": _sensitivity_lines,
    }
    kinds = dict.fromkeys(row["what"] for row in rows)
    return Cells(HEADINGS, [line for kind in kinds for line in lines[kind]([r for r in rows if r["what"] == kind])])


def _line(
    what: str,
    case: str,
    *,
    seconds: float | None = None,
    slower: str = "",
    size: str = "",
    larger: str = "",
    note: str = "",
) -> list[str]:
    return [what, case, "" if seconds is None else _time(seconds), slower, size, larger, note]


def _step_lines(rows: Rows) -> list[list[str]]:
    plain = {(row["model"], row["length"]): row for row in rows if row["path"] == "plain"}
    found = []
    for row in rows:
        base = plain[row["model"], row["length"]]
        seekr = f"seekr, {row['queries'] or 'all'} queries"
        way = {"plain": "no attention loss", "eager": "built maps"}.get(row["path"], seekr)
        case = f"{row['model']}, {row['length']} tokens: {way}"
        if row["seconds"] is None:
            found.append(_line("replay step", case, size="does not fit"))
            continue
        own = f"own code {row['own_share']:.1%} of it" if row.get("own_share") else ""
        ratios = [f"{row[key] / base[key]:.2f}" for key in ("seconds", "peak_bytes")]
        peak = readable_bytes(row["peak_bytes"])
        line = _line(
            "replay step", case, seconds=row["seconds"], slower=ratios[0], size=peak, larger=ratios[1], note=own
        )
        found.append(line)
    return found


def _divergence_lines(rows: Rows) -> list[list[str]]:
    ways = {"attention": "attention", "kernels": "divergence by kernels", "pytorch": "divergence by PyTorch"}
    found = []
    for row in rows:
        base = next(r for r in rows if r["path"] == "attention" and _case(r) == _case(row))
        speed = f"{row['operations'] / row['seconds'] / 1e12:.3g} TFLOP/s"
        built = "" if row["path"] == "attention" else f"; built maps: {readable_bytes(row['built_bytes'])}"
        line = _line(
            "layer, both passes",
            f"{row['heads']} heads, {row['key_heads']} of keys, {row['length']} tokens: {ways[row['path']]}",
            seconds=row["seconds"],
            slower=f"{row['seconds'] / base['seconds']:.2f}",
            size="" if row["peak_bytes"] is None else readable_bytes(row["peak_bytes"]),
            note=speed + built,
        )
        found.append(line)
    return found


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("device", "length", "heads", "key_heads", "head_size"))


def _task_step_lines(rows: Rows) -> list[list[str]]:
    base = next(row for row in rows if row["path"] == "padded")["seconds"]
    ways = {"padded": "padded rows, all logits", "seekr": "seekr"}
    return [
        _line(
            "task step",
            f"{row['model']}, {row['tokens']} tokens: {ways[row['path']]}",
            seconds=row["seconds"],
            slower=f"{row['seconds'] / base:.2f}",
            note=f"{row['tokens'] / row['seconds']:,.0f} tokens a second",
        )
        for row in rows
    ]


def _bytes_lines(rows: Rows) -> list[list[str]]:
    return [
        _line(
            "kept of a sample",
            f"{row['form']}, {row['queries'] or 'all'} queries",
            size=readable_bytes(row["bytes"]),
            larger=f"{row['bytes'] / row['released_bytes']:.3f}",
            note=f"error of the loss {row['loss_error']:.1e}, cosine of its gradient {row['gradient_cosine']:.4f}",
        )
        for row in rows
    ]


def _sensitivity_lines(rows: Rows) -> list[list[str]]:
    return [
        _line(
            "sensitivity of a layer",
            f"{row['length']} tokens",
            seconds=row["seconds"],
            note=f"{row['seconds'] / row['length'] * 1e6:.1f} µs a token",
        )
        for row in rows
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
