"""Before anything is written, the processes of a launch see to it that all of them want the same, or all give up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from seekr.distributed.processes import connect, gathered, process_count
from seekr.errors import InputError, RunError
from seekr.nested import first_difference

T = TypeVar("T")

_Outcome = tuple[type[InputError] | type[RunError] | None, str, Mapping[str, Any]]


class CommonInputError(InputError):
    """An InputError that all processes raise at once; the main one says it."""


class CommonRunError(RunError):
    """Likewise a RunError."""


def agreed(work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] = lambda _: {}) -> T:
    """Does `work` on every process, and goes on only where it came out well on all, with the same `facts`.

    `work` must not wait for other processes. Without a launch it is simply done.

    Raises:
        InputError: on all processes, where one of them raises it or the facts differ: the first of these.
        RunError: likewise.
    """
    if process_count() == 1:
        return work()
    connect()
    outcome: _Outcome = (None, "", {})
    try:
        result = work()
        outcome = (None, "", facts(result))
    except InputError as error:
        outcome = (CommonInputError, str(error), {})
    except RunError as error:
        outcome = (CommonRunError, str(error), {})
    found = gathered(outcome)
    for process, (kind, message, _) in enumerate(found):
        if kind is not None:
            where = f"process {process} of {len(found)}: " if len({text for _, text, _ in found}) > 1 else ""
            raise kind(f"{where}{message}")
    for process, (_, _, there) in enumerate(found):
        difference = first_difference(found[0][2], there)
        if difference is not None:
            key, first, other = difference
            raise CommonInputError(
                f"the processes of this launch disagree: {key} is {first!r} in process 0 and {other!r} in process "
                f"{process}; give all of them the same command, configuration and files"
            )
    return result
