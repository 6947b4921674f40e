"""Commands that show what runs left: check, report, compare, status, heads, memory."""

from __future__ import annotations

import argparse

from seekr.cli.status import DONE, TOO_MUCH_LOST


def check(arguments: argparse.Namespace) -> int:
    from seekr.disk import check_writable, write_json
    from seekr.report.check_run import renderables
    from seekr.report.forgotten import changes
    from seekr.report.tables import console, print_table
    from seekr.runs.run import open_runs

    check_writable(arguments.json, "--json")
    most, over, written = arguments.max_drop, False, []
    for run in open_runs(arguments.run):
        found = changes(run)
        console().print(f"run: {run.folder}")
        for part in renderables(found, most=most, examples=arguments.examples):
            print_table(part)
        over = over or any(change.over(most) for change in found)
        written.append({"run": str(run.folder), "tasks": [change.to_json() for change in found]})
    if arguments.json is not None:
        write_json(arguments.json, {"max_drop": most, "over": over, "runs": written})
    return TOO_MUCH_LOST if over else DONE


def report(arguments: argparse.Namespace) -> None:
    from seekr.report import write_report

    print(f"written: {write_report(arguments.runs, arguments.output)}")


def heads(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_heads
    from seekr.runs.run import Run

    print_heads(Run(arguments.run))


def memory(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_memory
    from seekr.runs.run import Run

    print_memory(Run(arguments.run))


def status(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_status, print_status_of_runs, print_status_of_seeds
    from seekr.runs.run import open_runs, read_runs, seed_folders

    folder = arguments.run
    if (
        not (folder / "run.json").is_file()
        and not seed_folders(folder)
        and any((*folder.glob("*/run.json"), *folder.glob("*/*/run.json")))
    ):
        print_status_of_runs(folder, read_runs([folder]))
        return
    runs = open_runs(folder)
    print_status(runs[0]) if runs[0].folder == arguments.run else print_status_of_seeds(arguments.run, runs)


def compare(arguments: argparse.Namespace) -> None:
    from seekr.report.comparison import compare
    from seekr.report.tables import print_comparison

    print_comparison(compare(arguments.runs), csv=arguments.csv, markdown=arguments.markdown)
