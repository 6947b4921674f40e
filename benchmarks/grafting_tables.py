"""The tables of the evidence on attention maps, from the rows of `grafting.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import hypot
from statistics import mean

from study_tables import Row, interval, markdown


def grafting_tables(name: str, rows: Sequence[Row]) -> dict[str, str]:
    """What old maps bring back, over all tasks and task by task; nothing where no study was made."""
    return {name: _table(rows), f"{name}: tasks": _tasks_table(rows)} if rows else {}


def _table(rows: Sequence[Row]) -> str:
    """A line a method and set of heads: points that a task lost, and those that its old maps bring back, means over
    tasks with the interval over the seeds; seed by seed how much more than as many random heads do. The interval of one
    seed is over its test rows.
    """
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        lost = [mean(one["lost"] for one in seed) for seed in _by_seed(own, "all")]
        random = list(_by_seed(own, "random"))
        for heads, count in {one["heads"]: one["count"] for row in own for one in row["found"]}.items():
            seeds = list(_by_seed(own, heads))
            gains = [_gain(seed) for seed in seeds]
            more = [gain - _gain(other) for gain, other in zip(gains, random, strict=True)] if random else []
            share = f"{sum(gains) / sum(lost):.0%}" if mean(lost) >= 1 else ""
            brought = interval(gains) + (_over_rows(seeds[0]) if len(seeds) == 1 else "")
            cells = [f"`{method}`", f"{heads} {count}", interval(lost), brought, share]
            lines.append([*cells, interval(more, signed=True) if heads == "selected" else ""])
    return markdown(["run", "heads", "lost", "brought back", "share", "more than random"], lines)


def _by_seed(rows: Sequence[Row], heads: str) -> Iterator[list[Row]]:
    """What was found of a set of heads, a list over the tasks for each seed that has it."""
    for seed in dict.fromkeys(row["seed"] for row in rows):
        found = [one for row in rows if row["seed"] == seed for one in row["found"] if one["heads"] == heads]
        if found:
            yield found


def _gain(found: Sequence[Row]) -> float:
    return mean(one["gain"] for one in found)


def _over_rows(found: Sequence[Row]) -> str:
    """Half of the 95% interval of the mean over tasks; empty where a task's metric is no mean over rows."""
    errors = [one["error"] for one in found]
    return "" if None in errors else f" ± {1.96 * hypot(*errors) / len(errors):.1f}"


def _tasks_table(rows: Sequence[Row]) -> str:
    """A line a method and task: its scores, means over the seeds."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        for one in row["found"]:
            own = cells.setdefault((row["method"], one["task"]), {})
            for name, score in (("then", "donor_score"), ("now", "own_score"), (one["heads"], "score")):
                own.setdefault(name, []).append(one[score])
    words = list(dict.fromkeys(name for own in cells.values() for name in own))
    lines = [
        [f"`{method}`", task, *(f"{mean(own[word]):.0f}" if word in own else "" for word in words)]
        for (method, task), own in cells.items()
    ]
    heads = {"then": "when learned", "now": "at the end"}
    return markdown(["run", "task", *(heads.get(word, f"maps of {word}") for word in words)], lines)
