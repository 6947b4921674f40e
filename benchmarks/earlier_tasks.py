"""What is measured of each run of a study once for every task that another one came after."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from json_rows import add
from study import Planned, drop_weights, for_each, learned, made_by, measured, parser, plan, told

from seekr import Run


def known_words(description: str | None, rows: str, default: int | None = None) -> argparse.ArgumentParser:
    """The words of `study.py`, and how many rows a task are taken, of which the help is `rows`."""
    known = parser(description)
    known.add_argument("--rows", type=int, default=default, help=rows)
    known.add_argument("--drop-weights", action="store_true", help="delete the models of each run that is measured")
    return known


def measure_earlier_tasks(
    name: str, arguments: argparse.Namespace, measure: Callable[[Run, str], dict[str, Any]], **asked: Any
) -> None:
    """A line of JSON a run and earlier task, of what is not in the JSON yet; a run is learned where one is missing.

    What is `asked` of `measure` beyond the run is part of each line, and another is measured anew.
    """

    def study(run: Planned) -> None:
        found = None
        for place in run.suite.tasks[:-1]:
            key = {**run.key, **asked, "task": Path(place).name}
            if not measured(key, arguments.json):
                found = found or learned(run)[0]
                add({**key, **measure(found, key["task"]), **made_by(found)}, arguments.json)
        if arguments.drop_weights:
            drop_weights(run.folder)

    with told(name):
        for_each(plan(arguments), study, arguments)
