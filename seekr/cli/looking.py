"""Commands that look into what runs left: check, report, compare, status, heads, graft, memory."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seekr.cli.status import CHECK_FAILED, DONE
from seekr.errors import InputError


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
    return CHECK_FAILED if over else DONE


def verify(arguments: argparse.Namespace) -> int:
    from seekr.disk import check_writable, write_json
    from seekr.report.tables import console
    from seekr.runs.run import open_runs
    from seekr.runs.verify import verify

    check_writable(arguments.json, "--json")
    written, faults = [], 0
    for run in open_runs(arguments.run):
        found = verify(run)
        count = sum(one.fault for one in found)
        for one in found:
            console().print(f"{one.text}; {one.mend}")
        console().print(f"{run.folder}: {f'{count} faults' if count else 'no fault was found'}")
        faults += count
        written.append({"run": str(run.folder), "findings": [asdict(one) for one in found]})
    if arguments.json is not None:
        write_json(arguments.json, {"faults": faults, "runs": written})
    return CHECK_FAILED if faults else DONE


def report(arguments: argparse.Namespace) -> None:
    from seekr.report import write_report

    print(f"written: {write_report(arguments.runs, arguments.output)}")


def heads(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_heads
    from seekr.runs.run import Run

    print_heads(Run(arguments.run))


def graft(arguments: argparse.Namespace) -> None:
    from seekr.disk import check_writable, write_json
    from seekr.report.tables import print_grafted
    from seekr.runs.graft import graft
    from seekr.runs.run import Run

    check_writable(arguments.json, "--json")
    asked = {"task": arguments.task, "heads": arguments.heads, "donor": arguments.donor, "model": arguments.model}
    found = graft(arguments.run, **asked)
    print_grafted(Run(arguments.run), found)
    if arguments.json is not None:
        write_json(arguments.json, {"run": str(arguments.run), "rows": [one.to_json() for one in found]})


def memory(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import console, print_memory
    from seekr.runs.run import Run

    run = Run(arguments.run)
    text = arguments.search if arguments.search is not None else arguments.remove_matching
    if text is None and arguments.remove is None:
        print_memory(run)
        return
    from seekr.runs.take_back import answers_with, copies, matching, named, settle, take_back

    if text is not None and not text.strip():
        raise InputError("--search and --remove-matching need a text, not an empty one")
    stopped = settle(run) if arguments.search is None else False
    rows = matching(run, text) if text is not None else [named(run, arguments.remove)]
    answers = answers_with(run, text) if text is not None else {}
    for row in rows:
        console().print(f"{row.task}/{row.number}: {' '.join(row.text.split())}")
    for path, count in answers.items():
        console().print(f"{path.relative_to(run.folder)}: {count} answers")
    if arguments.search is not None:
        return
    if rows or answers or stopped:
        take_back(run, rows, text)
    console().print(
        f"removed: {len(rows)} kept rows with what was kept of them, {sum(answers.values())} answers; what the weights "
        "learned of them stays learned"
    )
    for folder in copies(run):
        console().print(f"{folder}: holds the same rows; give the command for it too")


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
