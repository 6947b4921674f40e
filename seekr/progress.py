"""Progress of long parts on stderr: bars on a terminal, elsewhere a plain line now and then.

SEEKR_PROGRESS=0 turns both off.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seekr.distributed.processes import is_main

LINE_EVERY = 30.0  # seconds between plain lines
WORTH_A_LINE = 10.0  # a part that took so many seconds leaves a line when it is done


class Advance(Protocol):
    """Tells a bar that `n` more units are done, with numbers to show next to it, such as the losses."""

    def __call__(self, n: int = 1, **numbers: float) -> None: ...


@contextmanager
def bar(label: str, total: int | None = None, *, done: int = 0) -> Iterator[Advance]:
    """Show one long part while the block runs: `with bar("scoring a", 500) as advance: advance(8, loss=0.3)`.

    `total` None = unknown; `done` units were finished by an earlier run. Bars may be nested. Only the main
    process shows any.
    """
    if os.environ.get("SEEKR_PROGRESS") == "0" or not is_main():
        yield _silent
        return
    part = _Part(label, total, done)
    if sys.stderr.isatty():
        with _terminal.bar(part) as advance:
            yield advance
    else:
        yield part.advance_plainly
    if part.seconds >= WORTH_A_LINE:
        _terminal.line(str(part))


def _silent(n: int = 1, **numbers: float) -> None:
    pass


class _Part:
    def __init__(self, label: str, total: int | None, done: int) -> None:
        self.label, self.total, self.done, self.begun_with = label, total, done, done
        self.numbers = ""
        self.start = self.last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def advance(self, n: int, numbers: dict[str, float]) -> None:
        self.done += n
        self.numbers = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())

    def advance_plainly(self, n: int = 1, **numbers: float) -> None:
        self.advance(n, numbers)
        if time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            _terminal.line(str(self))

    def __str__(self) -> str:
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        pieces = [f"{self.label}: {count}", self.numbers, _clock(self.seconds)]
        if self.total is not None and self.begun_with < self.done < self.total:
            left = self.seconds * (self.total - self.done) / (self.done - self.begun_with)
            pieces.append(f"{_clock(left)} left")
        return ", ".join(piece for piece in pieces if piece)


class _Terminal:
    """The one terminal of the process: nested bars share one live display."""

    def __init__(self) -> None:
        self._display: Progress | None = None

    @contextmanager
    def bar(self, part: _Part) -> Iterator[Advance]:
        display, outermost = self._display or self._new_display(), self._display is None
        self._display = display
        if outermost:
            display.start()
        task = display.add_task(part.label, total=part.total, completed=part.done, numbers="")

        def advance(n: int = 1, **numbers: float) -> None:
            part.advance(n, numbers)
            display.update(task, completed=part.done, numbers=part.numbers)

        try:
            yield advance
        finally:
            display.remove_task(task)
            if outermost:
                display.stop()
                self._display = None

    def line(self, text: str) -> None:
        console = self._display.console if self._display is not None else Console(stderr=True, soft_wrap=True)
        console.print(text, markup=False, highlight=False)

    @staticmethod
    def _new_display() -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere must not end up on the terminal
        )


_terminal = _Terminal()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
