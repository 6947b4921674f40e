"""Runs side by side in one table: those that differ only in their seed are one row."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seekr.config.identity import without_seed
from seekr.errors import InputError, nearest
from seekr.report.folding import LINES, few, telling
from seekr.report.general import CHANGE, digits_of, general_numbers, how_measured
from seekr.report.summary import Spread, summarize
from seekr.report.torn import read_as_far_as_possible
from seekr.runs.run import Run

HEADINGS = {
    "overall_performance": "OP",
    "backward_transfer": "BWT",
    "forgetting": "forgetting",
    "forward_transfer": "forward transfer",
}
"""The numbers drawn from a score matrix, by their fields in scores.json, as tables name them."""


@dataclass(frozen=True)
class ComparisonRow:
    """Runs of one configuration. `runs` are counted: finished, their last row scored, each seed once."""

    name: str
    method: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(run.seed for run in self.runs))

    def measure(self, field: str) -> Spread | None:
        """One of `HEADINGS` over the seeds; None where a run has not measured it."""
        return _spread([run.measure(field) for run in self.runs])

    def task(self, name: str) -> Spread | None:
        """The score of a task after the last one, over the seeds."""
        return _spread([run.final.get(name) for run in self.runs])

    @cached_property
    def general(self) -> dict[str, Spread]:
        """General ability now and its change since the base model, by heading; without what not every seed has."""
        found = [general_numbers(run) for run in self.runs]
        spreads = {name: _spread([numbers.get(name) for numbers in found]) for name in (found[0] if found else {})}
        return {name: replace(spread, digits=digits_of(name)) for name, spread in spreads.items() if spread is not None}


@dataclass(frozen=True)
class Comparison:
    """A table of runs. `tasks` have a column each: those that every row has scored. `notes` are for a person."""

    rows: tuple[ComparisonRow, ...]
    tasks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def general(self) -> tuple[str, ...]:
        """What of general ability has a column: all that a row has."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.general))

    @property
    def headings(self) -> list[str]:
        """Of the columns of numbers: measures, tasks, general ability."""
        return [*(HEADINGS[field] for field in self.measures), *self.tasks, *self.general]

    @property
    def forgetting(self) -> int:
        """The place of the only column in which less is better."""
        return self.measures.index("forgetting")

    def spreads(self, row: ComparisonRow) -> list[Spread | None]:
        """The numbers of a row, under the headings."""
        general = map(row.general.get, self.general)
        return [*map(row.measure, self.measures), *map(row.task, self.tasks), *general]

    @property
    def measures(self) -> tuple[str, ...]:
        """Fields of scores.json that have a column; forward transfer where a run has measured it."""
        found = any(row.measure("forward_transfer") for row in self.rows)
        return tuple(field for field in HEADINGS if field != "forward_transfer" or found)


def sorted_by(comparison: Comparison, name: str) -> Comparison:
    """The same, best first by a heading, or a field of scores.json. Raises InputError for a name that has no column."""
    short = {
        alias: place for place, field in enumerate(comparison.measures) for alias in (field, HEADINGS[field].lower())
    }
    known = {heading: place for place, heading in enumerate(comparison.headings)} | short
    place = known.get(name, short.get(name.lower()))
    if place is None:
        others = comparison.headings[len(comparison.measures) :]
        raise InputError(f"--sort {name}: no such column; {nearest(name, [*short, *others])}")
    sign = -1 if place == comparison.forgetting else 1

    def key(row: ComparisonRow) -> float:
        spread = comparison.spreads(row)[place]
        return -math.inf if spread is None else sign * spread.mean

    return replace(comparison, rows=tuple(sorted(comparison.rows, key=key, reverse=True)))


def folded(comparison: Comparison, column: str | None = None) -> Comparison:
    """The same for a reader: of more than 20 tasks those that tell most, and the one that `column` names."""
    tasks = comparison.tasks
    places = telling([run for row in comparison.rows for run in row.runs], LINES, tasks)
    if len(places) == len(tasks):
        return comparison
    shown = tuple(task for place, task in enumerate(tasks) if place in places or task == column)
    note = f"{len(tasks) - len(shown)} of {len(tasks)} tasks have no column here: these are the first, the last, and "
    note += "those that lost most; --all shows every one, --json and --csv have them"
    return replace(comparison, tasks=shown, notes=(*comparison.notes, note))


def compare(paths: Sequence[Path]) -> Comparison:
    """Reads the runs in `paths` (each a run, or a folder of runs) and groups them by all but their seed.

    A run that is not finished or whose last row is not scored counts in no mean, and a note says so. A second run of
    a seed has a row of its own: it would make the spread look smaller than it is. A note names runs whose general
    tasks cannot be read. Raises InputError where a path holds no run, or the scores of one are torn.
    """
    rows, notes = [], []
    read = read_as_far_as_possible(paths)
    for torn in read:
        if torn.scored is None and torn.faults:
            raise InputError(torn.faults[0])  # a mean without it would mislead
    for summary in summarize(read):
        reasons = [(run, _not_counted(run)) for run in summary.runs]
        notes += [why for _, why in reasons if why]
        groups = _each_seed_once([run for run, why in reasons if not why])
        for runs in groups or [[]]:
            folders = [run.folder for run in runs or summary.runs]
            rows.append(ComparisonRow(common_name(folders), summary.label, tuple(runs)))
        again = "its settings and seed are another run's too, so it has a row of its own"
        notes += [f"{run.folder}: {again}" for runs in groups[1:] for run in runs]
    runs = [run for row in rows for run in row.runs]
    notes += differences(runs)
    notes += [f"{run.folder}: without its general tasks, which cannot be read" for run in read if run.faults]
    return Comparison(tuple(rows), _shared_tasks(runs), tuple(notes))


def common_name(folders: Sequence[Path]) -> str:
    """One name for the folders of a row: what differs in numbers only becomes a *, and /seed-* goes."""
    first = folders[0]
    if len(folders) == 1:
        return str(first) if first.name else first.resolve().name
    if len({len(folder.parts) for folder in folders}) > 1:
        return f"{first} and {len(folders) - 1} more"
    parts = []
    for names in zip(*(folder.parts for folder in folders), strict=True):
        stems = {re.sub(r"\d+$", "", name) for name in names}
        parts.append(names[0] if len(set(names)) == 1 else f"{stems.pop() if len(stems) == 1 else ''}*")
    if parts[-1] == "seed-*" and len(parts) > 1:
        parts.pop()
    return str(Path(*parts))


def _not_counted(run: Run) -> str | None:
    """Why a run counts in no mean; None where it does."""
    if not run.finished:
        return f"{run.folder}: not counted, {len(run.stages)} of its {run.planned} tasks are learned"
    if run.measure("overall_performance") is None:
        return f"{run.folder}: not counted, its last row is not scored; `seekr evaluate {run.folder}` does it"
    return None


def _each_seed_once(runs: Sequence[Run]) -> list[list[Run]]:
    """As few groups as let no seed stand in one of them twice."""
    groups: list[list[Run]] = []
    for run in runs:
        free = (group for group in groups if run.seed not in {other.seed for other in group})
        group = next(free, None)
        if group is None:
            groups.append(group := [])
        group.append(run)
    return groups


def _scored(run: Run) -> list[str]:
    return [name for name, score in run.final.items() if score is not None]


def _shared_tasks(runs: Sequence[Run]) -> tuple[str, ...]:
    """Tasks that all runs have scored, in the order of the first."""
    return tuple(name for name in (_scored(runs[0]) if runs else []) if all(name in _scored(run) for run in runs))


def differences(runs: Sequence[Run]) -> list[str]:
    """What makes numbers of these runs not quite comparable, a line each."""
    orders = {tuple(_scored(run)) for run in runs}
    shared = _shared_tasks(runs)
    notes = []
    if len({frozenset(order) for order in orders}) > 1:
        others = sorted({name for order in orders for name in order} - set(shared))
        notes.append(
            "the runs are not of the same tasks: OP, BWT and forgetting are over each run's own, and there is no "
            f"column for {', '.join(others)}"
        )
    elif len(orders) > 1:
        notes.append("the runs are of the same tasks in different orders")
    unlike = [name for name in shared if len({_scored_how(run, name) for run in runs}) > 1]
    if unlike:
        notes.append(
            "maybe not scored alike in all runs (another test file, test_limit, metric or max_new_tokens): "
            f"{', '.join(few(unlike))}"
        )
    general = dict.fromkeys(name for run in runs for name in general_numbers(run) if not name.endswith(CHANGE))
    if unlike := [name for name in general if len({how_measured(run, name) for run in runs} - {None}) > 1]:
        notes.append(f"not measured alike in all runs (rows, or versions): {', '.join(unlike)}")
    return notes


def _scored_how(run: Run, task: str) -> str:
    given: dict[str, Any] = without_seed(run.record)["tasks"].get(task, {})
    return repr([given.get(key) for key in ("test", "test_limit", "metric", "max_new_tokens")])


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known and len(known) == len(values) else None
