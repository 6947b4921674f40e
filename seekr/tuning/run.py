"""Choosing settings: each candidate of a grid is learned in a folder of its own and scored on eval rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from seekr.config.schema import Config, make_tasks
from seekr.disk.files import write_json
from seekr.distributed.processes import is_main, process_count, say_once, wait_for_all
from seekr.errors import InputError, RunError
from seekr.planning.dry_run import print_plan
from seekr.report.comparison import ComparisonRow
from seekr.report.tables import console
from seekr.runs.execute import run_request
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.seeds import Load, Trial, begin_of, check_other_seeds, check_root, seed_requests
from seekr.tuning.grid import Settings, folder_name, parse_grid, points, words_of
from seekr.tuning.rows import TuningRows, check_files, tuning_rows, write_files
from seekr.tuning.table import Result, describe, print_results


@dataclass(frozen=True)
class Candidate(Trial):
    """A point of the grid."""

    settings: Settings


def tune(
    load: Load, words: Sequence[str], output_dir: Path | None, holdout: float | int | None, *, dry_run: bool = False
) -> None:
    """Learns every candidate of a grid, scored on eval rows, and prints them, the best first.

    The same call goes on where it stopped; another grid adds candidates to the folder.

    Args:
        load: makes the configuration; it is asked once for each candidate.
        words: `key=[v1,v2]` are the grid, `key=value` holds for all candidates.
        output_dir: of the candidates' folders, table.json and the rows they are scored on; None = that of the
            configuration with -tune after it.
        holdout: a share (float) or number (int) of each task's train rows to score on, instead of its eval split.
        dry_run: prints the candidates and the first one's plan, and touches nothing.

    Raises:
        InputError: before anything is trained or written.
        RunError: no candidate could be learned. One that fails among others is named below the table.
    """
    grid, fixed = parse_grid(words)
    config = load([*fixed, *words_of(next(points(grid)))])
    if config.encrypt:
        raise InputError("encrypt: candidates are scored on rows that tune writes as they are; give encrypt=false")
    folder = Path(config.output_dir + "-tune") if output_dir is None else output_dir.absolute()
    check_place(folder, config)
    rows = tuning_rows(make_tasks(config), holdout)
    check_files(rows, folder / "data")
    candidates = [
        make_candidate(load([*fixed, *words_of(settings)]), settings, folder, rows) for settings in points(grid)
    ]
    plans = [check_candidate(candidate, weights=not dry_run) for candidate in candidates]
    if is_main():
        announce(candidates, rows, holdout)
    if dry_run:
        print_plan(plans[0], [str(candidate.folder) for candidate in candidates])
        return
    plans.clear()  # they hold the tokenized rows
    found = [*folder.glob("*/run.json"), *folder.glob("*/seed-*/run.json")]
    began = begin_of(found)
    if is_main():
        write_files(rows, folder / "data")
    wait_for_all()
    results: list[Result] = []
    for number, candidate in enumerate(candidates, start=1):
        say_once(f"candidate {number} of {len(candidates)}: {candidate.folder.name}")
        results.append((candidate.settings, learn_candidate(candidate, began)))
        if is_main():
            write_json(folder / "table.json", describe(results, holdout))
    if is_main():
        print_results(results, fixed, folder / "table.json")


def check_place(folder: Path, config: Config) -> None:
    """The folder of the candidates is new, empty, or one that was tuned in before. Raises InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir: {folder} is a file; give a folder")
    if folder.resolve() == Path(config.output_dir).resolve():
        raise InputError(f"--output-dir: {folder} is where the run itself goes (output_dir); give another folder")
    if folder.is_dir() and any(folder.glob("[!.]*")) and not (folder / "data").is_dir():
        raise InputError(f"--output-dir: {folder} holds files, but no candidates; give an empty or a new folder")


def make_candidate(config: Config, settings: Settings, folder: Path, rows: dict[str, TuningRows]) -> Candidate:
    """A candidate whose tasks are scored, and with a holdout trained, on `rows`. Raises InputError."""
    place = folder / folder_name(settings)
    tasks = [rows[task.name].task(task) for task in make_tasks(config)]
    given: list[dict[str, Any]] = []
    for task in config.tasks:
        files = rows[task["name"]].files(folder / "data" / task["name"])
        given.append({**task, **{split: str(path) for split, (path, _) in files.items()}, "eval": None})
    changed = {"tasks": given, "output_dir": str(place), "keep_stages": "last", "general": None}
    if "cells" not in config.model_fields_set:  # candidates are ranked by the last row
        changed["cells"] = "paper"
    return Candidate(place, seed_requests(Request(config.model_copy(update=changed), tasks=tasks)), settings)


def check_candidate(candidate: Candidate, *, weights: bool) -> RunSpec:
    """Prepares a candidate's first seed, as the others differ in nothing that could be wrong. Raises InputError.

    `weights`: whether those of the base model are read.
    """
    try:
        if candidate.in_seeds:
            check_root(candidate.folder)
        spec = prepare(replace(candidate.requests[0], weights=weights))
        if candidate.in_seeds:
            check_other_seeds(candidate.folder, candidate.requests, spec)
    except InputError as error:
        raise InputError(f"{' '.join(words_of(candidate.settings))}: {error}") from None
    return spec


def learn_candidate(candidate: Candidate, began: datetime) -> ComparisonRow | str:
    """The scores of a candidate's seeds, or why one of them failed; `began` is when its runs begin if they are new."""
    runs = []
    for request in candidate.requests:
        try:
            runs.append(run_request(replace(request, began=began)))
        except RunError as error:
            if process_count() > 1:  # the other processes would wait for this one
                raise
            return f"seed {request.config.seed}: {error}"
    return ComparisonRow(candidate.folder.name, runs[0].method, tuple(runs))


def announce(candidates: Sequence[Candidate], rows: dict[str, TuningRows], holdout: float | int | None) -> None:
    """Says how much there is to do, and what the candidates are scored on."""
    out = console()
    runs = sum(len(candidate.requests) for candidate in candidates)
    out.print(f"candidates  {len(candidates)}, runs {runs}, in {candidates[0].folder.parent}")
    where = "the eval split" if holdout is None else f"rows held out of train (--holdout {holdout})"
    out.print(f"scored on   {where}, never on test")
    for name, found in rows.items():
        if found.left_out:
            out.print(f"{name}: {found.left_out} rows stand in test too; none of them is scored")
