"""What `on_a_gpu.py` found, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study_tables import markdown

from seekr.bench.tables import HEADINGS, bench_cells
from seekr.report.terminal import readable_bytes

Row = dict[str, Any]


def gpu_tables(rows: Sequence[Row]) -> dict[str, str]:
    """The kernels' errors by dtype, what became of every part's cases, and the costs as `seekr bench` shows them."""
    costs = bench_cells(
        [row for row in rows if row["part"] in ("flash", "long", "step7b") and row["case"] != "machine"]
    )
    return {
        "gpu: kernels": errors_table([row for row in rows if "errors" in row]),
        "gpu: cases": cases_table(rows),
        "gpu: costs": markdown(HEADINGS, costs),
    }


def host_table(rows: Sequence[Row]) -> str:
    """Where a step's time goes: milliseconds of one step of each way, and how many kernels it starts."""
    ways = [row for row in rows if row["part"] == "host" and row["case"] != "machine"]
    names = {("plain", None): "no attention loss", ("seekr", None): "seekr, all queries", ("seekr", 100): "seekr, 100"}
    found = []
    for row in ways:
        times = [f"{1000 * row[key]:.1f} ms" for key in ("seconds", "reading", "waits")]
        found.append(
            [names[row["path"], row["queries"]], *times, f"{row['launches']:,}", f"{100 * row['own_share']:.0f}%"]
        )
    return markdown(["way", "step", "reading", "waiting for the GPU", "kernels", "host's time on distillation"], found)


def planned_table(rows: Sequence[Row]) -> str:
    """A line a run: what `seekr plan` says that the device must hold, and what PyTorch gave out at most."""
    found = []
    for row in rows:
        planned, measured = row["planned_bytes"], row["measured_bytes"]
        name = f"`{row['method']}`" + ", 20 rows" * row["keeps_by_default"]
        cells = [name, row["phase"], readable_bytes(planned), readable_bytes(measured)]
        found.append([*cells, f"{planned / measured:.3f}"])
    return markdown(["run", "largest moment", "planned", "measured", "ratio"], found)


def errors_table(rows: Sequence[Row]) -> str:
    """The largest over the cases: of values as a share of them, of gradients of their largest entry."""
    found = []
    for dtype in dict.fromkeys(row["case"].partition(",")[0] for row in rows):
        own = [row for row in rows if row["case"].startswith(dtype)]
        largest = [max(max(row["errors"].get(part, 0.0) for part in parts) for row in own) for parts in _PARTS]
        within = [own[0]["within"]["value"], own[0]["within"]["query"]]
        cells = [f"{error:.1e} of {allowed:.0e}" for error, allowed in zip(largest, within, strict=True)]
        found.append([dtype, str(len(own)), *cells])
    return markdown(["dtype", "cases", "error of values", "error of gradients"], found)


_PARTS = (("value",), ("query", "key", "sink"))


def cases_table(rows: Sequence[Row]) -> str:
    """Tests are those of the repository that take the kernels, or train in a precision."""
    found = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = {row["case"]: row["passed"] for row in rows if row["part"] == part and row["case"] != "machine"}
        for kind, cases in (("measured", [c for c in own if "::" not in c]), ("tests", [c for c in own if "::" in c])):
            if cases:
                found.append([part, kind, str(len(cases)), str(sum(not own[case] for case in cases))])
    return markdown(["part", "", "cases", "failed"], found)
