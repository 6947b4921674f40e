"""Methods side by side: runs that differ by their seed only are one method, as mean ± half of its 95% interval."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seekr.config.identity import without_seed
from seekr.config.secrets import without_secrets
from seekr.runs.run import Run
from seekr.scoring.uncertainty import half_interval, half_of_difference


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a run: its field in scores.json, its heading, and which way is better."""

    field: str
    heading: str
    higher_is_better: bool


MEASURES = (
    Measure("overall_performance", "Overall performance", True),
    Measure("backward_transfer", "Backward transfer", True),
    Measure("backward_transfer_over_all_tasks", "Backward transfer", True),
    Measure("forgetting", "Forgetting", False),
    Measure("forward_transfer", "Forward transfer", True),
)


SPREAD = "± is half of the 95% interval of the mean over the seeds, where these differ"


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one number over the seeds of a method, shown with so many decimals."""

    values: tuple[float, ...]
    digits: int = 1

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (divided by n − 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half(self) -> float | None:
        """Half of the 95% interval of the mean, by Student's t; None for a single value."""
        return half_interval(self.values)

    def __str__(self) -> str:
        mean = decimal(self.mean, self.digits)
        return mean if self.half is None else f"{mean} ± {decimal(self.half, self.digits)}"


@dataclass(frozen=True)
class MethodSummary:
    """All runs of one method and one set of settings. `label`: its name, with settings where needed."""

    label: str
    runs: tuple[Run, ...]

    @property
    def joint(self) -> bool:
        return self.runs[0].joint

    @property
    def tasks(self) -> tuple[str, ...]:
        return _tasks(self.runs[0])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(run.seed for run in self.runs if run.seed is not None))

    @cached_property
    def counted(self) -> tuple[Run, ...]:
        """The runs that a mean over seeds is of: all tasks are scored at the end; or else one that is scored at all."""
        scored = [run for run in self.runs if run.scored]
        return tuple([run for run in scored if run.measure("overall_performance") is not None] or scored[:1])

    @property
    def unfinished(self) -> int:
        return sum(not run.finished for run in self.runs)

    def spread(self, field: str) -> Spread | None:
        """Over the runs that have it; None where none has."""
        return _spread(run.measure(field) for run in self.runs)

    def steps(self, kind: str | None = None) -> Spread | None:
        """Optimizer steps of one kind, or of all kinds."""
        return _spread(run.steps.get(kind, 0) if kind else sum(run.steps.values()) for run in self.runs)


def decimal(value: float, digits: int = 1) -> str:
    """One decimal, or as many as asked for, a true minus sign, and none before a zero."""
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.removeprefix("-")).replace("-", "−")


def signed(value: float) -> str:
    """The same of a change: with a plus sign where it is above zero."""
    text = decimal(value)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def summarize(runs: Sequence[Run]) -> list[MethodSummary]:
    """Groups runs that are the same but for the seed, in order of appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run), sort_keys=True, default=str), []).append(run)
    labels = _labels([members[0] for members in groups.values()])
    return [MethodSummary(label, tuple(members)) for label, members in zip(labels, groups.values(), strict=True)]


def by_tasks(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that learn the same tasks in the same order, in order of appearance: the others are not comparable."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_tasks(run), []).append(run)
    return list(groups.values())


def _tasks(run: Run) -> tuple[str, ...]:
    """Those of the score matrix, or, where nothing was scored yet, those to learn; skills first."""
    planned = sorted(run.record["config"]["tasks"], key=lambda task: task.get("learn", True))
    return tuple(run.scored.tasks) if run.scored else tuple(task["name"] for task in planned)


def best(summaries: Sequence[MethodSummary], measure: Measure) -> MethodSummary | None:
    """The leader of a column, or None where naming one would mean nothing.

    Joint training is the upper bound and takes no part. There must be two or more methods, all of them
    finished on the same tasks, with two seeds or more: one tells nothing about chance. The lead over every other one
    must show at the printed precision, and be outside of the 95% interval of the difference of the two means.
    """
    rivals = [summary for summary in summaries if not summary.joint]
    runs = [run for summary in rivals for run in summary.runs]
    if len({run.tasks for run in runs}) != 1 or any(run.measure(measure.field) is None for run in runs):
        return None
    sign = 1 if measure.higher_is_better else -1
    spreads = [(summary, spread) for summary in rivals if (spread := summary.spread(measure.field)) is not None]
    if len(spreads) < 2 or any(len(spread.values) < 2 for _, spread in spreads):
        return None
    leader, first = max(spreads, key=lambda pair: sign * pair[1].mean)
    for summary, other in spreads:
        if summary is leader:
            continue
        lead = sign * (first.mean - other.mean)
        if decimal(first.mean) == decimal(other.mean) or lead <= half_of_difference(first.values, other.values):
            return None
    return leader


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None


def _identity(run: Run) -> dict[str, Any]:
    """What is the same in runs of one method: all but the seed; `settings` are those that a label may tell."""
    shared = without_seed(without_secrets(run.record))
    tasks = shared.pop("tasks")
    return {"method": run.method, "tasks": list(tasks.items()), "settings": flatten(shared)}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys, in their order; lists that hold mappings are numbered."""
    if isinstance(value, dict) and value:
        pairs = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        pairs = [(f"{prefix}.{number}", item) for number, item in enumerate(value)]
    else:
        return {prefix: value}
    return {key: item for name, child in pairs for key, item in flatten(child, name).items()}


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method's name; where groups share it, with up to three of the settings that tell them apart, or the folder.

    The folder tells groups apart whose tasks alone differ.
    """
    labels = []
    for run in runs:
        peers = [_identity(peer)["settings"] for peer in runs if peer.method == run.method]
        own = _identity(run)["settings"]
        keys = sorted(key for key in own if any(key not in peer or peer[key] != own[key] for peer in peers))
        keys.sort(key=lambda key: not key.startswith("method."))
        said = own | {"model": _base(run, runs)}
        shown = [f"{key.removeprefix('method.')}={said[key]}" for key in keys[:3]] + ["…"] * (len(keys) > 3)
        labels.append(f"{run.method} ({', '.join(shown)})" if shown else run.method)
    homes = [run.folder.parent if run.folder.name == f"seed-{run.seed}" else run.folder for run in runs]
    of_label = [[other for other, its in zip(homes, labels, strict=True) if its == label] for label in labels]
    return [
        f"{label} ({_telling_end(home, peers)})" if len(peers) > 1 else label
        for label, home, peers in zip(labels, homes, of_label, strict=True)
    ]


def _base(run: Run, runs: Sequence[Run]) -> str:
    """The name of a run's base model; where another model has that name, the fingerprint."""
    name, mark = base_name(run), run.record["identity"].get("model")
    marks = {other.record["identity"].get("model") for other in runs if base_name(other) == name}
    return name if len(marks) == 1 else str(mark)


def base_name(run: Run) -> str:
    """The base model: a local folder by its name alone, since where it lies is in the settings."""
    name = str(run.record["config"]["model"])
    path = Path(name)
    return "/".join(path.parts[-2 if path.name == "model" else -1 :]) if path.is_absolute() else name


def _telling_end(home: Path, homes: Sequence[Path]) -> Path:
    """As much of the end of a path as no other of these has."""
    parts = home.absolute().parts
    for length in range(1, len(parts)):
        if sum(other.absolute().parts[-length:] == parts[-length:] for other in homes) == 1:
            return Path(*parts[-length:])
    return home
