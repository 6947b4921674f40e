"""Runs of which a file cannot be read: what is there is shown, and what is not is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seekr.disk import Fault
from seekr.errors import InputError, say
from seekr.runs.folder import find_runs, finished_stages
from seekr.runs.general_tasks import GeneralScore
from seekr.runs.grafted import Grafted
from seekr.runs.log import LogEntry, ScoredAnswer
from seekr.runs.run import Run, Stage
from seekr.runs.verify import quick_faults
from seekr.scoring import ScoreMatrix

T = TypeVar("T")


def read_as_far_as_possible(paths: Sequence[Path]) -> list[TornRun]:
    """Every run of `find_runs(paths)`."""
    return [TornRun(folder) for folder in find_runs(paths)]


@contextmanager
def torn(runs: Iterable[Run], *, named: bool) -> Iterator[list[TornRun]]:
    """The same runs, to be shown in the block as far as they can be read; at its end a line on stderr for each fault.

    `named`: files in which `quick_faults` finds something were named before, and are not again.
    """
    found = [TornRun(run.folder) for run in runs]
    try:
        yield found
    finally:
        for run in found:
            known = [str(fault.path) for fault in quick_faults(run.folder)] if named and run.faults else ()
            of_known = tuple(path + sign for path in known for sign in ":,")  # "PATH: ..." or "PATH, line 3: ..."
            for fault in in_few_lines([fault for fault in run.faults if not fault.startswith(of_known)]):
                say(f"not shown: {fault}")


def in_few_lines(faults: Sequence[str]) -> list[str]:
    """What is wrong alike with several files of a folder, such as that there is no key, once with their number."""
    said: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        path, _, what = fault.partition(": ")
        said.setdefault((str(Path(path).parent), what), []).append(path)
    more = {key: f" and {len(paths) - 1} more there" * (len(paths) > 1) for key, paths in said.items()}
    return [f"{paths[0]}{more[folder, what]}: {what}" for (folder, what), paths in said.items()]


def score_faults(run: Run) -> list[Fault]:
    """What is seen to be wrong with the scores of a run, and with the answers that they are of."""
    return [it for it in quick_faults(run.folder) if it.lies_in(run.folder / "scores.json", run.folder / "predictions")]


class TornRun(Run):
    """A run whose files, but for run.json, are as if they were not there where they cannot be read.

    `faults`: of each that was wanted so far what is wrong with it, in a line.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._faults: dict[str, None] = {}

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(self._faults)

    @property
    def stages(self) -> list[Stage]:
        folders = finished_stages(self.folder)
        self._stages = {folder: self._stages.get(folder, _TornStage(folder, self._whole)) for folder in folders}
        return list(self._stages.values())

    @property
    def scores(self) -> ScoreMatrix:
        """Raises InputError where they cannot be read too: for what is nothing without them."""
        return super().scored or super().scores

    @property
    def scored(self) -> ScoreMatrix | None:
        return self._whole(lambda: super(TornRun, self).scored, None)

    @property
    def grafted(self) -> tuple[Grafted, ...]:
        return self._whole(lambda: super(TornRun, self).grafted, ())

    @property
    def general_scores(self) -> tuple[GeneralScore, ...]:
        return self._whole(lambda: super(TornRun, self).general_scores, ())

    def answers(self, after: int, task: int) -> list[ScoredAnswer]:
        return self._whole(lambda: super(TornRun, self).answers(after, task), [])

    def _whole(self, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except InputError as error:
            self._faults[str(error)] = None
            return otherwise


@dataclass(frozen=True)
class _TornStage(Stage):
    whole: Callable[[Callable[[], Any], Any], Any] = field(repr=False, compare=False)

    @cached_property
    def heads(self) -> dict[int, list[int]]:
        return self.whole(lambda: super(_TornStage, self).heads, {})

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        return self.whole(lambda: super(_TornStage, self).importance, {})

    @cached_property
    def log(self) -> tuple[LogEntry, ...]:
        return self.whole(lambda: super(_TornStage, self).log, ())

    @property
    def trained(self) -> bool:
        path = self.folder / "log.jsonl"
        return bool(self.log) or (path.is_file() and path.stat().st_size > 0)
