"""`seekr memory RUN` with --search, --remove-matching or --remove: kept rows shown, and taken back."""

from __future__ import annotations

from pathlib import Path

from seekr.errors import InputError
from seekr.report.tables import console
from seekr.runs.exchange import settle
from seekr.runs.lock import locked
from seekr.runs.run import Run
from seekr.runs.take_back import KeptRow, answers_with, copies, matching, named, take_back


def show(run: Run, text: str | None, name: str = "") -> tuple[list[KeptRow], dict[Path, int]]:
    """Shows and returns the rows that hold a text, or else the one of this name, and how many answers hold the text."""
    rows = [named(run, name)] if text is None else matching(run, text)
    answers = {} if text is None else answers_with(run, text)
    for row in rows:
        console().print(f"{row.task}/{row.number}: {' '.join(row.text.split())}")
    for path, count in answers.items():
        console().print(f"{path.relative_to(run.folder)}: {count} answers")
    return rows, answers


def remove(run: Run, name: str, text: str | None) -> None:
    """Takes back what holds a text, or else the row of this name, and names the runs that may hold it too.

    A removal that was stopped comes first; then a row's name may mean another one, and nothing more is removed.
    """
    stopped = settle(run.folder)
    if stopped is not None and text is None and list(stopped.rows) != [name]:
        raise InputError(
            f"--remove {name}: not done, since rows are counted again after the removal that was finished first; "
            f"look at `seekr memory {run.folder} --search TEXT`, and give the command again"
        )
    if stopped is None or text is not None:
        with locked(run.folder):
            rows, answers = show(run, text, name)
            if rows or answers or stopped is None:
                take_back(run, rows, text, lambda removed: console().print(str(removed)))
    others = copies(run)
    for folder in others.found:
        console().print(f"{folder}: may hold the same rows; look there: seekr memory {folder} --search TEXT")
    for folder in others.alike:
        console().print(f"{folder}: learned the same files of rows; look there: seekr memory {folder} --search TEXT")
    missing = "".join(f"{path} is not where it was, or cannot be read; " for path in others.gone)
    places = ", ".join(map(str, others.looked))
    console().print(f"{missing}copies were looked for in {places}, three levels deep; those elsewhere are not known")
    console().print("left as they are: the files of rows that were given, and pages and answers written elsewhere")
