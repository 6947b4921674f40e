"""The time that chat templates see: fixed when a run begins, so that a run says the same on every later day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from seekr.errors import InputError


@contextmanager
def fixed_clock(moment: datetime) -> Iterator[None]:
    """Templates that ask for the time (`strftime_now`) are given this moment.

    transformers hands templates a function that asks `datetime` of its own module, and takes no other one.
    """
    from transformers.utils import chat_template_utils as templates

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return moment if tz is None else moment.astimezone(tz)

    kept = templates.datetime
    templates.datetime = Fixed  # type: ignore[misc]
    try:
        yield
    finally:
        templates.datetime = kept  # type: ignore[misc]


def now() -> datetime:
    """To the second."""
    return datetime.now().replace(microsecond=0)


def clock_of(record: Mapping[str, Any], path: Path) -> datetime:
    """When the run began whose run.json, at `path`, holds this record.

    Runs of earlier versions do not say: their run.json was written when they were begun or gone on with, and what their
    templates said then was compared with what they had said before. Raises InputError.
    """
    if "clock" not in record:
        return datetime.fromtimestamp(int(path.stat().st_mtime))
    try:
        return datetime.fromisoformat(record["clock"])
    except (TypeError, ValueError):
        raise InputError(f"{path}: clock: {record['clock']!r} is no time such as 2025-01-31T12:00:00") from None
