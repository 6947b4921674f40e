"""Once rows are taken back, what is left of a run's files takes their place: all of it, however often that is stopped.

It is first written as a whole to RUN/.removing, without what goes. The marker RUN/.removing.json, written once
all is there and removed last, decides: without it nothing was changed; with it whoever writes the run next puts in
place what is not yet. So a repeat never counts rows again, and needs neither the text nor a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from seekr.disk.files import PRIVATE, clear_folder, flush, read_json, sync, write_json
from seekr.errors import InputError, say
from seekr.runs.lock import locked

_MARKER, _LEFT = ".removing.json", ".removing"
STOPPED = "a removal of kept rows was stopped before its end; its command, given again, finishes it"
_FINISHED = "a removal of kept rows that was stopped is finished"


@dataclass(frozen=True)
class Removed:
    """What is taken back: kept rows as TASK/N, and how many answers."""

    rows: Sequence[str]
    answers: int

    def __str__(self) -> str:
        return (
            f"removed: {len(self.rows)} kept rows with what was kept of them, {self.answers} answers; what the weights "
            "learned of them stays learned"
        )


@contextmanager
def place_for_rest(run: Path) -> Iterator[Path]:
    """A new folder for what is to be left, each file under its path in the run, which is locked; for `exchange`.

    Raises InputError where another removal is to be finished first.
    """
    check_settled(run)
    clear_folder(run / _LEFT)
    (run / _LEFT).mkdir(PRIVATE)
    try:
        yield run / _LEFT
    finally:
        if not is_unsettled(run):
            clear_folder(run / _LEFT)


def exchange(run: Path, removed: Removed, say: Callable[[Removed], None]) -> None:
    """Puts what stands in that folder into the run. Raises InputError for links, nothing changed."""
    list(_moves(run))
    flush(run / _LEFT)
    write_json(run / _MARKER, asdict(removed))
    _finish(run, removed, say)


def is_unsettled(run: Path) -> bool:
    """Whether a removal was stopped once it had begun to change the run."""
    return (run / _MARKER).exists()


def check_settled(run: Path) -> None:
    """Raises InputError where a removal is still to be finished."""
    if is_unsettled(run):
        raise InputError(f"{run}: {STOPPED}, as `seekr learn` and `seekr evaluate` do")


def settle(run: Path) -> Removed | None:
    """Finishes a removal that was stopped, and nothing more, and says so: what it took back; None = there is none.

    Raises InputError where the folder is damaged, or another process is at work in it.
    """
    if not is_unsettled(run):
        return None
    with locked(run):
        removed = _read(run / _MARKER)
        _finish(run, removed, lambda it: say(f"{run}: {_FINISHED}; {it}"))
    return removed


def _read(marker: Path) -> Removed:
    content = read_json(marker)
    try:
        return Removed([str(row) for row in content["rows"]], int(content["answers"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{marker}: not what a removal writes; bring the run back from a copy") from None


def _finish(run: Path, removed: Removed, done: Callable[[Removed], None]) -> None:
    for new, place in list(_moves(run)):
        clear_folder(place)
        new.replace(place)
        sync(place.parent)
    if removed.rows:
        _forget_steps(run)
    done(removed)  # while the marker stands: whoever did not read it gives the command again, and no more is removed
    clear_folder(run / _LEFT)
    (run / _MARKER).unlink()
    sync(run)


def _forget_steps(run: Path) -> None:
    """Drops the checkpoints of a task that was stopped: its steps had replayed what is taken back."""
    if (run / "working").is_symlink() or not (run / "working").is_dir():
        return  # not of seekr's making
    for folder in sorted((run / "working").glob("*-*")):
        if any(folder.glob("checkpoint-*")):
            name = folder.name.partition("-")[2]
            say(f"task {name!r} was stopped while it was learned, and begins again: its steps had replayed these rows")
    clear_folder(run / "working")


def _moves(run: Path) -> Iterator[tuple[Path, Path]]:
    """What is to be left → its place. Raises InputError where a link would lead out of the run."""
    for pattern in ("stages/*/*", "predictions/*", "scores.json"):
        for new in sorted((run / _LEFT).glob(pattern)):
            place = run / new.relative_to(run / _LEFT)
            for path in (new, *new.parents, place, *place.parents):
                if path != run and path.is_relative_to(run) and path.is_symlink():
                    raise InputError(f"{path}: is a link, and nothing is removed where it leads; put the file there")
            yield new, place
