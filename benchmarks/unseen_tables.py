"""The table of the evidence on rows that nobody kept, from the rows of `unseen_rows.py`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from study_tables import Row, markdown

_HEADINGS = ["suite", "run", "rows kept a task", "seeds", "drift on kept rows", "on unseen rows"]
_HEADINGS += ["likelihood on kept rows", "on unseen rows", "answers that are labels of the task", "right answers"]


def unseen_table(rows: Sequence[Row]) -> str:
    """A line a suite, method, number of kept rows and of measured ones: means over seeds and earlier tasks; the last
    two columns are over the answers to those tasks that have labels."""
    lines = []
    for configuration in dict.fromkeys(map(_configuration, rows)):
        own = [row for row in rows if _configuration(row) == configuration]
        suite, method, kept, _ = configuration
        lines.append([suite, f"`{method}`", str(kept), ", ".join(dict.fromkeys(str(row["seed"]) for row in own))])
        lines[-1] += [f"{_mean(own, which, 'drift'):.2g}" for which in ("kept", "unseen")]
        for which in ("kept", "unseen"):
            then, now = (_mean(own, which, f"likelihood_{when}") for when in ("then", "now"))
            lines[-1].append(f"{then:.0f} → {now:.0f}")
        answered = [row["labels"] for row in own if row["labels"] is not None]
        count = sum(one["answers"] for one in answered)
        lines[-1] += [f"{sum(one[key] for one in answered) / count:.0%}" if count else "" for key in ("own", "right")]
    return markdown(_HEADINGS, lines)


def _mean(rows: Sequence[Row], which: str, number: str) -> float:
    return mean(row[which][number] for row in rows)


def _configuration(row: Row) -> tuple[str, str, int, int]:
    return row["suite"], row["method"], row["kept"]["rows"], row["unseen_rows"]
