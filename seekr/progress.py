"""Progress of long parts on stderr: bars on a terminal and in a notebook, elsewhere a plain line now and then.

SEEKR_PROGRESS=0 turns all of it off.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from rich import text as rich_text
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table

from seekr.distributed.processes import is_main
from seekr.errors import visible

LINE_EVERY = 30.0  # seconds between plain lines
WORTH_A_LINE = 10.0  # a part that took so many seconds leaves a line when it is done
WIDEST, NARROWEST = 40, 8  # columns of a bar


class Advance(Protocol):
    """Tells a bar that `n` more units are done, with numbers to show next to it, such as the losses."""

    def __call__(self, n: int = 1, **numbers: float) -> None: ...


@contextmanager
def bar(label: str, total: int | None = None, *, done: int = 0, place: int | None = None) -> Iterator[Advance]:
    """Show one long part while the block runs: `with bar("scoring a", 500) as advance: advance(8, loss=0.3)`.

    `total` None = unknown; `done` units were finished by an earlier run; `place`: which of the tasks of `all_tasks` it
    is. Bars may be nested. Only the main process shows any.
    """
    _beginning.close()
    if os.environ.get("SEEKR_PROGRESS") == "0" or not is_main():
        yield _silent
        return
    part = _Part(label, total, done, _Place(_tasks, place) if _tasks and place is not None else None)
    if sys.stderr.isatty():
        with _terminal.bar(part) as advance:
            yield advance
    elif Terminal(stderr=True).is_jupyter:
        with _notebook_bar(part) as advance:
            yield advance
    else:
        yield part.advance_plainly
    if part.seconds >= WORTH_A_LINE:
        _terminal.line(str(part))


@contextmanager
def beginning(label: str) -> Iterator[None]:
    """Show what takes the time until the first bar of the block."""
    with _beginning:
        _beginning.enter_context(bar(label))
        yield


@contextmanager
def all_tasks(sizes: Sequence[float]) -> Iterator[None]:
    """Show, of the bars in the block that say which task they are, how many there are and the time that all will take.

    `sizes`: how much there is to do of each, in any unit; 0 = it is done.
    """
    global _tasks
    _tasks = _Tasks(sizes)
    try:
        yield
    finally:
        _tasks = None


def _silent(n: int = 1, **numbers: float) -> None:
    pass


class _Tasks:
    """The tasks of a run, and how much of them was done when the first of this start began."""

    def __init__(self, sizes: Sequence[float]) -> None:
        self.sizes = sizes
        self.start: tuple[float, float] | None = None

    def seconds_left(self, place: int, share: float) -> float | None:
        """Of all, when a share of the task at a place is done; None = nothing tells yet."""
        done = sum(self.sizes[:place]) + share * self.sizes[place]
        begun, before = self.start = self.start or (time.monotonic(), done)
        if done <= before:
            return None
        return (time.monotonic() - begun) * (sum(self.sizes) - done) / (done - before)


class _Place:
    """Which of all tasks a part is."""

    def __init__(self, tasks: _Tasks, place: int) -> None:
        self.tasks, self.place = tasks, place

    def __str__(self) -> str:
        return f"task {self.place + 1} of {len(self.tasks.sizes)}"

    @property
    def last(self) -> bool:
        return not any(self.tasks.sizes[self.place + 1 :])


class _Part:
    def __init__(self, label: str, total: int | None, done: int, place: _Place | None = None) -> None:
        self.label, self.total, self.done, self.begun_with = label, total, done, done
        self.place = place
        self.numbers: list[str] = []
        self.start = self.last_line = time.monotonic()
        self._all_left()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def advance(self, n: int, numbers: dict[str, float]) -> None:
        self.done += n
        self.numbers = [f"{name} {value:.4g}" for name, value in numbers.items()]

    def advance_plainly(self, n: int = 1, **numbers: float) -> None:
        self.advance(n, numbers)
        if time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            _terminal.line(str(self))

    def name(self, width: int | None = None) -> str:
        """The label and which of all tasks it is; of a long label the end is left out."""
        place = "" if self.place is None else f" ({self.place})"
        room = len(self.label) if width is None else max(width - len(place), 1)
        return (self.label if len(self.label) <= room else f"{self.label[: room - 1]}…") + place

    @property
    def count(self) -> str:
        """How much is done; nothing of a part that has no units."""
        return f"{self.done}/{self.total}" if self.total is not None else str(self.done or "")

    def left(self) -> list[str]:
        """The time that is left of the part, and of all tasks."""
        if self.total is None or not self.begun_with < self.done <= self.total:
            return []
        own = self.seconds * (self.total - self.done) / (self.done - self.begun_with)
        found = [f"{_clock(own)} left"] if self.done < self.total else []
        every = None if self.place is None or self.place.last else self._all_left()
        return found if every is None else [*found, f"{_clock(every)} of all"]

    def _all_left(self) -> float | None:
        share = self.done / self.total if self.total else 0.0
        return None if self.place is None else self.place.tasks.seconds_left(self.place.place, share)

    def __str__(self) -> str:
        pieces = [*([self.count] if self.count else []), " ".join(self.numbers), _clock(self.seconds), *self.left()]
        return f"{self.name()}: {', '.join(piece for piece in pieces if piece)}"

    def fitted(self, width: int) -> tuple[str, int, str]:
        """What stands before the bar, the bar's columns and what stands after it: the losses give way first, then the
        times but the one that all will take, then the bar, then the name."""
        left = self.left()
        numbers = [self.numbers[:count] for count in range(len(self.numbers), -1, -1)]
        times = [[_clock(self.seconds), *left], left, left[-1:]]
        forms = [(shown, times[0]) for shown in numbers] + [([], shown) for shown in times[1:]]
        texts = [" ".join(filter(None, [self.count, *shown, ", ".join(time)])) for shown, time in forms]
        for text in texts:
            room = width - len(self.name()) - len(text) - 2
            if room >= NARROWEST:
                return self.name(), min(room, WIDEST), text
        text = next((text for text in texts if len(self.name()) + 1 + len(text) <= width), texts[-1])
        return self.name(width - len(text) - 1), 0, text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line of the terminal, however narrow that is."""
        name, columns, text = self.fitted(options.max_width)
        drawn = [ProgressBar(self.total, self.done, width=columns, pulse=self.total is None)] if columns else []
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(Text(name, no_wrap=True), *drawn, Text(text, no_wrap=True))
        yield grid


class _Line(ProgressColumn):
    def render(self, task: Task) -> Any:
        return task.fields["part"]


@contextmanager
def _notebook_bar(part: _Part) -> Iterator[Advance]:
    """tqdm's, which draws in the cell."""
    from tqdm.auto import tqdm

    with tqdm(desc=visible(part.name()), total=part.total, initial=part.done, leave=False) as shown:

        def advance(n: int = 1, **numbers: float) -> None:
            part.advance(n, numbers)
            shown.set_postfix_str(", ".join([*part.numbers, *part.left()[1:]]), refresh=False)
            shown.update(n)

        yield advance


class Terminal(Console):
    """A console on which nothing but rich itself colours and moves: what steers a terminal in a text is shown."""

    def render_str(self, text: str, **more: Any) -> rich_text.Text:
        return super().render_str(visible(text), **more)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


class Text(rich_text.Text):
    """One of rich's that is as wide as it is shown."""

    def __init__(self, text: str = "", *more: Any, **named: Any) -> None:
        super().__init__(visible(text), *more, **named)


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
        task = display.add_task(part.label, total=part.total, part=part)

        def advance(n: int = 1, **numbers: float) -> None:
            part.advance(n, numbers)
            display.update(task, completed=part.done)

        try:
            yield advance
        finally:
            display.remove_task(task)
            if outermost:
                display.stop()
                self._display = None

    def line(self, text: str) -> None:
        console = self._display.console if self._display is not None else Terminal(stderr=True, soft_wrap=True)
        console.print(text, markup=False, highlight=False)

    @staticmethod
    def _new_display() -> Progress:
        return Progress(
            _Line(),
            console=Terminal(stderr=True),
            transient=True,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere must not end up on the terminal
        )


_terminal = _Terminal()
_beginning = ExitStack()
_tasks: _Tasks | None = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
