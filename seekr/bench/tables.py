"""The bench's rows as one table of text, for the terminal and for the pages alike."""

from __future__ import annotations

from typing import Any

from seekr.bench.meters import ratio
from seekr.report.terminal import readable_bytes

Measured = dict[str, Any]
Rows = list[Measured]

HEADINGS = ["what", "case", "time", "× time", "bytes", "× bytes", ""]
_CASE = ("what", "device", "model", "length", "heads", "key_heads", "head_size")
_NAMES = {"step": "replay step", "divergence": "layer, both passes", "task step": "task step"}
_WAYS = {
    ("step", "plain"): "no attention loss",
    ("step", "eager"): "built maps",
    ("divergence", "attention"): "attention",
    ("divergence", "kernels"): "divergence by kernels",
    ("divergence", "pytorch"): "divergence by PyTorch",
    ("task step", "padded"): "padded rows, all logits",
    ("task step", "seekr"): "seekr",
}


def bench_cells(rows: Rows) -> list[list[str]]:
    """Cells below `HEADINGS`, a line a row; × is over the first row of the same case."""
    bases: dict[tuple[Any, ...], Measured] = {}
    return [_cells(row, bases.setdefault(tuple(row.get(key) for key in _CASE), row)) for row in rows]


def _cells(row: Measured, base: Measured) -> list[str]:
    what = row["what"]
    if what == "sensitivity":
        note = f"{row['seconds'] / row['length'] * 1e6:.1f} µs a token"
        return ["sensitivity of a layer", f"{row['length']} tokens", _time(row["seconds"]), "", "", "", note]
    sizes = f"{row['heads']} heads, {row['key_heads']} of keys" if what == "divergence" else row["model"]
    way = _WAYS.get((what, row["path"])) or f"seekr, {row['queries'] or 'all'} queries"
    head = [_NAMES[what], f"{sizes}, {row.get('length') or row['tokens']} tokens: {way}"]
    if row["seconds"] is None:
        return [*head, "", "", "does not fit", "", ""]
    size = readable_bytes(row["peak_bytes"]) if row.get("peak_bytes") else ""
    larger = f"{row['peak_bytes'] / base['peak_bytes']:.2f}" if what == "step" else ""
    return [*head, _time(row["seconds"]), _slower(row, base), size, larger, _note(row)]


def _slower(row: Measured, base: Measured) -> str:
    """Turn by turn, where all of them are known."""
    if row is base or "all_seconds" not in row:
        return f"{row['seconds'] / base['seconds']:.2f}"
    times, half = ratio(row["all_seconds"], base["all_seconds"])
    return f"{times:.2f}" if half is None else f"{times:.2f} ± {half:.2f}"


def _note(row: Measured) -> str:
    if row["what"] == "step":
        return f"own code {row['own_share']:.1%} of it" if row.get("own_share") else ""
    if row["what"] == "task step":
        return f"{row['tokens'] / row['seconds']:,.0f} tokens a second"
    built = "" if row["path"] == "attention" else f"; built maps: {readable_bytes(row['built_bytes'])}"
    return f"{row['operations'] / row['seconds'] / 1e12:.3g} TFLOP/s{built}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
