"""The demo: the built-in tasks learned with several methods, side by side, from one command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seekr.builtin import TASKS, builtin_model, builtin_rows
from seekr.builtin.tasks import Split
from seekr.data.task import Task
from seekr.disk.files import read_json, write_json
from seekr.errors import InputError
from seekr.progress import Text
from seekr.report.answer import answers
from seekr.report.page import write_report
from seekr.report.summary import summarize
from seekr.report.tables import console, print_table
from seekr.report.terminal import methods_table
from seekr.runs.learn import learn
from seekr.runs.run import Run, read_runs

METHODS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "replay": {"replay_ratio": 0.02},
    "derpp": {"replay_ratio": 0.02},
    "seekr": {"replay_ratio": 0.02, "query_budget": None, "head_budget": 8},
    "joint": {},
}
"""In the order of the table; what keeps samples keeps the same number of them.

Settings were chosen on seeds 0 to 2 and the eval split, by `benchmarks/demo_settings.py`.
"""

TRAINING = {
    "learning_rate": 5e-4,
    "lr_scheduler_type": "constant",
    "adam_beta2": 0.95,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 3,
}
ROWS: dict[Split, int] = {"train": 1000, "eval": 100, "test": 100}
MAX_NEW_TOKENS = 8
SMALL_TASKS = 3
SMALL = ("sequential", "derpp", "seekr")
"""Tasks and methods of the small demo, whose runs a whole one in the same folder goes on with."""


def run_demo(output_dir: Path, *, seed: int, json_file: Path | None, small: bool) -> list[Run]:
    """Learns the built-in tasks with every method into `output_dir/<method>/`, prints a table and writes a page.

    Stopped, it goes on where it was, as any run does. `small` takes the first tasks and the methods `SMALL` alone.
    Raises InputError where `output_dir` holds a demo of another seed, or something else.
    """
    check_place(output_dir, seed)
    out = console()
    tasks = write_tasks(output_dir, seed, "test")[: SMALL_TASKS if small else None]
    methods = {name: settings for name, settings in METHODS.items() if name in SMALL or not small}
    out.print(
        f"{len(methods)} methods learn {len(tasks)} tasks one after another: some {1 if small else 6} minutes on two "
        f"processor cores{'' if small else ', or 1 with --small'}"
    )
    runs = []
    for number, (name, settings) in enumerate(methods.items(), start=1):
        out.print(f"{number} of {len(methods)}: {name}")
        folder = output_dir / name
        with clocked(folder, output_dir / "seconds.json"):
            run = learn(
                model=builtin_model(),
                tasks=tasks,
                output_dir=folder,
                method={"name": name, **settings},
                training=TRAINING,
                keep_stages="last",
                seed=seed,
            )
        runs.append(run)
        seconds = read_json(output_dir / "seconds.json")[name]
        out.print(f"  overall performance {run.scores.overall_performance:.1f}, {seconds:.0f} s")
    folders = [run.folder for run in runs]
    print_table(methods_table(read_runs(folders)))
    for answer in answers(summarize(read_runs(folders))):
        print_table(Text(str(answer)))
    out.print(f"page: {write_report(folders, output_dir / 'report.html')}")
    if json_file is not None:
        write_json(json_file, describe(runs, seed, read_json(output_dir / "seconds.json")))
    return runs


def check_place(output_dir: Path, seed: int) -> None:
    """Raises InputError for a folder that holds anything but a demo of this seed."""
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output-dir: {output_dir} is a file; give a folder")
    found = {path.name for path in output_dir.glob("[!.]*")} if output_dir.is_dir() else set()
    foreign = sorted(found - {*METHODS, "data", "seconds.json", "report.html"})
    if foreign:
        raise InputError(
            f"--output-dir: {output_dir} holds {foreign[0]!r}, which is no part of a demo; give another folder"
        )
    seeds = {path.name for path in (output_dir / "data").glob("*")}
    if seeds - {f"seed-{seed}"}:
        raise InputError(
            f"--output-dir: {output_dir} holds a demo of {min(seeds)}; give that --seed, or another folder"
        )


def write_tasks(output_dir: Path, seed: int, split: Split) -> list[Task]:
    """The built-in tasks as files that a person can look at, drawn by `seed`."""
    splits: tuple[Split, Split] = ("train", split)
    tasks = []
    for name in TASKS:
        folder = output_dir / "data" / f"seed-{seed}" / name
        train, scored = (folder / f"{item}.json" for item in splits)
        for file, item in zip((train, scored), splits, strict=True):
            rows = builtin_rows(name, item, seed=seed, count=ROWS[item])
            if not file.exists() or read_json(file) != rows:
                write_json(file, rows)
        tasks.append(Task(name, train=train, test=scored, max_new_tokens=MAX_NEW_TOKENS, separator=""))
    return tasks


@contextmanager
def clocked(folder: Path, file: Path) -> Iterator[None]:
    """Adds the seconds of the block to those that the run in `folder` has taken before, unless it was finished."""
    finished = (folder / "run.json").is_file() and all(item.state == "done" for item in Run(folder).status())
    start = time.monotonic()
    try:
        yield
    finally:
        if not finished and folder.is_dir():
            seconds = read_json(file) if file.is_file() else {}
            seconds[folder.name] = seconds.get(folder.name, 0.0) + time.monotonic() - start
            write_json(file, seconds)


def describe(runs: list[Run], seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """What `--json` writes: the machine, and one row a method."""
    from seekr.bench import describe_machine

    rows = [
        {
            "method": run.folder.name,
            "seed": seed,
            "overall_performance": run.scores.overall_performance,
            "backward_transfer": run.scores.backward_transfer,
            "seconds": round(seconds[run.folder.name], 1),
        }
        for run in runs
    ]
    return {"machine": describe_machine(), "rows": rows}
