"""Runs of which a file cannot be read: what is there is shown, and what is not is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekr.disk.files import Fault
from seekr.errors import InputError, say
from seekr.runs.folder import find_runs
from seekr.runs.run import Run
from seekr.runs.verify import quick_faults


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

    def _by(self, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except InputError as error:
            self._faults[str(error)] = None
            return otherwise
