"""The tables of the evidence, from the rows of `study.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from seekr.scoring.uncertainty import half_interval

Row = dict[str, Any]


def read_study(file: Path) -> list[Row]:
    """The rows of a study, none where it was not run yet."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def label(row: Row) -> str:
    """The method of a row, with what of it is not as the suite has it."""
    settings, more = row["settings"]["method"], []
    if "replay_ratio" in settings:
        ratio = settings["replay_ratio"]
        more.append("1%, 20 rows at least" if ratio is None else f"{100 * ratio:g}%")
        passes = settings.get("replay_passes")
        more.append("once an epoch" if passes is None else f"{passes} passes")
    return f"`{row['method']}`" + (f", {', '.join(more)}" if more else "")


def study_table(rows: Sequence[Row], naming: Callable[[Row], str] = label) -> str:
    """A line a method: means over the seeds with their 95% intervals, the best overall performance first.

    General ability is the likelihood of rows that no task contains: its change from the base model to the last stage.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(naming(row), []).append(row)
    lines = []
    for name, own in groups.items():
        performance = [row["overall_performance"] for row in own]
        cells = [name, str(len(own)), interval(performance)]
        cells += [interval([row["backward_transfer"] for row in own], signed=True)]
        cells += [interval([row["general"][-1] - row["general"][0] for row in own if row["general"]], signed=True)]
        cells += [_seconds(own)]
        cells += [_bytes(mean(row["kept_bytes"] for row in own))]
        lines.append((mean(performance), cells))
    head = ["method", "seeds", "overall performance", "backward transfer", "general ability", "seconds", "kept"]
    return markdown(head, [cells for _, cells in sorted(lines, key=lambda line: -line[0])])


def tasks_table(rows: Sequence[Row], naming: Callable[[Row], str] = label) -> str:
    """A line a method, a column a task: its score after the last task, and in brackets when it was learned."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(naming(row), []).append(row)
    lines = []
    for name, own in sorted(groups.items(), key=lambda item: -mean(row["overall_performance"] for row in item[1])):
        last = [mean(scores) for scores in zip(*(row["last_row"] for row in own), strict=True)]
        when = list(zip(*(row["when_learned"] or [] for row in own), strict=True))
        brackets = [f" ({mean(scores):.0f})" if None not in scores else "" for scores in when] or [""] * len(last)
        lines.append([name, *(f"{now:.0f}{then}" for now, then in zip(last, brackets, strict=True))])
    return markdown(["method", *rows[0]["tasks"]], lines)


def rules_table(rows: Sequence[Row]) -> str:
    """What was tried of replay and of the weight on eval rows: a line a rule, the mean over its seeds."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["suite"], row["method"], row["replay"], row["weight"] or "–"), []).append(row)
    lines = []
    for key, own in groups.items():
        seeds = ", ".join(str(row["seed"]) for row in own)
        scores = [f"{mean(row[name] for row in own):.1f}" for name in ("overall_performance", "backward_transfer")]
        lines.append([key[0], f"`{key[1]}`", *key[2:], seeds, *scores])
    head = ["suite", "method", "replay", "attention weight", "seeds", "overall performance", "backward transfer"]
    order = sorted(lines, key=lambda line: (line[0], -float(line[-2])))
    return markdown(head, order)


def interval(values: Sequence[float | None], *, signed: bool = False) -> str:
    """Mean ± half of its 95% interval; the mean alone of one value."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    sign = "+" if signed else ""
    half = half_interval(known)
    return f"{mean(known):{sign}.1f}" + ("" if half is None else f" ± {half:.1f}")


def paired_table(rows: Sequence[Row], base: str, naming: Callable[[Row], str] = label) -> str:
    """Overall performance seed by seed against that of `base`: the mean difference and its 95% interval."""
    reference = {row["seed"]: row["overall_performance"] for row in rows if naming(row) == base}
    names = [name for name in dict.fromkeys(map(naming, rows)) if name != base]
    lines = []
    for name in names:
        own = [row for row in rows if naming(row) == name and row["seed"] in reference]
        performance = interval([row["overall_performance"] for row in own])
        lines.append([name, performance, interval(differences(own, reference), signed=True)])
    head = ["method", "overall performance", f"difference to {base}"]
    return markdown(head, [[base, interval(list(reference.values())), ""], *lines])


def differences(rows: Sequence[Row], reference: Mapping[int, float]) -> list[float]:
    """Overall performance less the reference's of the same seed, of the seeds that both have."""
    return [row["overall_performance"] - reference[row["seed"]] for row in rows if row["seed"] in reference]


def _seconds(rows: Sequence[Row]) -> str:
    """The mean over runs that were not stopped; none where some ran on a GPU and some on none."""
    timed = [row for row in rows if row["seconds"]["training"] is not None]
    if len({row["machine"]["gpu"] is None for row in timed}) != 1:
        return ""
    return f"{mean(sum(filter(None, row['seconds'].values())) for row in timed):.0f}"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
