"""Commands that look into what runs left: check, report, compare, status, heads, graft, memory."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from seekr.cli.output import CHECK_FAILED, DONE, give
from seekr.errors import InputError, show_text


def check(arguments: argparse.Namespace) -> int:
    from seekr.report.check_run import renderables
    from seekr.report.forgotten import changes
    from seekr.report.general import general_json
    from seekr.report.tables import console, print_general, print_table
    from seekr.report.torn import torn
    from seekr.runs.run import open_runs

    most, opened = arguments.max_drop, open_runs(arguments.run)
    found = [changes(run) for run in opened]
    over = any(change.over(most) for lost in found for change in lost)

    def content() -> dict[str, Any]:
        each = [
            {"run": str(run.folder), "tasks": [change.to_json() for change in lost], "general": general_json(run)}
            for run, lost in zip(runs, found, strict=True)
        ]
        return {"max_drop": most, "over": over, "runs": each}

    def show() -> None:
        for run, lost in zip(runs, found, strict=True):
            console().print(f"run: {run.folder}")
            print_general(run)
            for part in renderables(lost, most=most, examples=arguments.examples, whole=arguments.all):
                print_table(part)

    with torn(opened, named=True) as runs:
        give(arguments.json, content, show)
    return CHECK_FAILED if over else DONE


def verify(arguments: argparse.Namespace) -> int:
    from seekr.report.tables import console
    from seekr.runs.run import open_runs
    from seekr.runs.verify import verify

    found = [(run.folder, verify(run)) for run in open_runs(arguments.run)]
    faults = sum(one.fault for _, findings in found for one in findings)
    runs = [{"run": str(folder), "findings": [asdict(one) for one in findings]} for folder, findings in found]

    def show() -> None:
        for folder, findings in found:
            count = sum(one.fault for one in findings)
            for one in findings:
                console().print(f"{one.text}; {one.mend}")
            console().print(f"{folder}: " + (f"{count} fault{'s' * (count > 1)}" if count else "no fault was found"))

    give(arguments.json, lambda: {"faults": faults, "runs": runs}, show)
    return CHECK_FAILED if faults else DONE


def report(arguments: argparse.Namespace) -> None:
    from seekr.report.figures import check_figures, write_figures
    from seekr.report.page import write_report

    check_figures(arguments.figures)
    show_text(f"written: {write_report(arguments.runs, arguments.output)}")
    for path in write_figures(arguments.runs, arguments.figures) if arguments.figures else ():
        show_text(f"written: {path}, and as .pdf and .png")


def heads(arguments: argparse.Namespace) -> None:
    from seekr.report.as_json import heads_json
    from seekr.report.tables import print_heads
    from seekr.report.torn import torn
    from seekr.runs.run import Run

    with torn([Run(arguments.run)], named=True) as (run,):
        give(arguments.json, lambda: {"runs": [heads_json(run)]}, lambda: print_heads(run))


def graft(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_grafted
    from seekr.report.torn import torn
    from seekr.runs.graft import graft
    from seekr.runs.run import Run

    asked = {"task": arguments.task, "heads": arguments.heads, "donor": arguments.donor, "model": arguments.model}
    found = graft(arguments.run, **asked)
    content = {"run": str(arguments.run), "rows": [one.to_json() for one in found]}
    with torn([Run(arguments.run)], named=False) as (run,):
        give(arguments.json, lambda: content, lambda: print_grafted(run, found))


def memory(arguments: argparse.Namespace) -> None:
    from seekr.report.as_json import kept_of_tasks
    from seekr.report.tables import print_memory
    from seekr.runs.run import Run

    run = Run(arguments.run)
    text = arguments.search if arguments.search is not None else arguments.remove_matching
    if text is None and arguments.remove is None:
        about = {"run": str(run.folder)}
        give(arguments.json, lambda: {"runs": [about | {"tasks": kept_of_tasks(run)}]}, lambda: print_memory(run))
        return
    if text is not None and not text.strip():
        raise InputError("--search and --remove-matching need a text, not an empty one")
    from seekr.cli import kept_rows

    if arguments.search is not None:
        if not any(kept_rows.show(run, text)):
            show_text(f"no kept row and no answer holds {text!r}")
    else:
        kept_rows.remove(run, arguments.remove, text)


def status(arguments: argparse.Namespace) -> None:
    from seekr.report.as_json import status_json
    from seekr.report.tables import print_status, print_status_of_runs, print_status_of_seeds
    from seekr.report.torn import torn
    from seekr.runs.folder import runs_below, seed_folders
    from seekr.runs.run import open_runs, read_runs

    folder = arguments.run
    several = not ((folder / "run.json").is_file() or seed_folders(folder)) and bool(runs_below(folder))

    def show() -> None:
        if several:
            print_status_of_runs(folder, runs)
        elif runs[0].folder == folder:
            print_status(runs[0])
        else:
            print_status_of_seeds(folder, runs)

    with torn(read_runs([folder]) if several else open_runs(folder), named=True) as runs:
        give(arguments.json, lambda: {"runs": [status_json(run) for run in runs]}, show)


def compare(arguments: argparse.Namespace) -> None:
    from seekr.report.comparison import compare, folded, sorted_by
    from seekr.report.tables import print_comparison

    found = compare(arguments.runs)
    if arguments.sort is not None:
        found = sorted_by(found, arguments.sort)
    shown = found if arguments.all else folded(found, arguments.sort)
    files = {name: getattr(arguments, name) for name in ("csv", "json", "latex", "markdown")}
    print_comparison(found, shown, **files)
