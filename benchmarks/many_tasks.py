"""What grows with the number of tasks: a run of many tiny ones, looked at as each of them begins.

    python benchmarks/many_tasks.py FOLDER --tasks 200 --json benchmarks/results/many_tasks.json

A random Llama of two layers learns the tasks by `seekr` in one process, 16 rows each, of which one is kept. Replay is
at its bound from the fourth task on, and each task is scored once it is learned (`cells: paper`), so that every task is
the same work. What comes after the last is left out: there all tasks are scored once more. Then each command that reads
a finished run is given for it, and `learn` with nothing left to do and with one task more.

Last, the run learns twenty tasks more while a new one learns its first twenty next to it: `beside` compares the
processor's seconds of the last ten of each, whatever else the machine does at that time.

`cpu_seconds` are those of the processor. On a machine that does other things too, less is done in one of them at some
times than at others, so the same loop is timed as each task begins: `per_loop` is a task's seconds by that loop's.
`read_bytes` are those of read(2); what is mapped is not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from random_model import write_random_model
from transformers import TrainerCallback

from seekr.bench import describe_machine
from seekr.builtin.tasks import TASKS, builtin_rows
from seekr.disk.files import read_json, write_json

METHOD = {"name": "seekr", "replay_ratio": 0.01, "query_budget": 4, "layer_budget": 2, "head_budget": 2}
TRAINING = {"learning_rate": 0.001, "per_device_train_batch_size": 4, "num_train_epochs": 1, "use_cpu": True}
LOOKS = ("status", "check", "heads", "memory", "compare", "report", "verify", "evaluate")
EARLY, TOGETHER, BESIDE = 20, 9, 20


class Watch(TrainerCallback):
    """What the process holds as each task begins."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(held())
        if len(self.seen) % 10 == 0:
            print(len(self.seen), self.seen[-1], file=sys.stderr, flush=True)


def held() -> dict[str, float]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    began = time.process_time()
    sum(number * number for number in range(1_000_000))
    return {
        "loop_seconds": time.process_time() - began,
        "cpu_seconds": time.process_time(),
        "seconds": time.perf_counter(),
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "read_bytes": int(io["rchar"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the run is made; must be new")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run = arguments.folder / arguments.worker
        print(json.dumps(learn(run, read_json(run.with_suffix(".json")))))
        return
    arguments.folder.mkdir(parents=True)
    config = make_tasks(arguments.folder, arguments.tasks + 1 + BESIDE)
    learned = learn(arguments.folder / "run", first(config, arguments.tasks))
    loops = [(before["loop_seconds"] + after["loop_seconds"]) / 2 for before, after in pairwise(learned)]
    rows = [
        {"task": number, "per_loop": (after["cpu_seconds"] - before["cpu_seconds"]) / loops[number - 1]}
        | {key: after[key] - before[key] for key in ("seconds", "cpu_seconds", "read_bytes")}
        | {key: after[key] for key in ("resident_bytes", "open_files", "loop_seconds")}
        for number, (before, after) in enumerate(pairwise(learned), start=1)
    ]
    commands = looks(arguments.folder, config, arguments.tasks)
    result = {"machine": describe_machine(), "tasks": arguments.tasks, "grown": grown(rows), "commands": commands,
              "bytes": sizes(arguments.folder / "run"), "beside": beside(arguments.folder, config, arguments.tasks + 1),
              "rows": rows}  # fmt: skip
    write_json(arguments.json, result)
    print(json.dumps({key: result[key] for key in ("grown", "beside", "commands", "bytes")}, indent=1))


def make_tasks(folder: Path, count: int) -> dict[str, Any]:
    """Writes a model and tasks of which no two have the same rows; what `learn` takes of them."""
    write_random_model(folder / "model", hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    tasks, kinds = [], sorted(TASKS)
    for number in range(count):
        place = folder / "data" / f"{number:03d}"
        place.mkdir(parents=True, exist_ok=True)
        for split, rows in (("train", 16), ("test", 4)):
            given = builtin_rows(kinds[number % len(kinds)], split, seed=number, count=rows)
            (place / f"{split}.json").write_text(json.dumps(given))
        tasks.append({"name": f"task{number:03d}", "separator": "", "max_new_tokens": 8,
                      "train": str(place / "train.json"), "test": str(place / "test.json")})  # fmt: skip
    return {"model": str(folder / "model"), "tasks": tasks, "method": METHOD, "training": TRAINING, "cells": "paper",
            "keep_stages": "last"}  # fmt: skip


def first(config: dict[str, Any], count: int) -> dict[str, Any]:
    return config | {"tasks": config["tasks"][:count]}


def learn(run: Path, config: dict[str, Any]) -> list[dict[str, float]]:
    """Learns all tasks that are not learned yet; what the process held as each of them began."""
    import seekr

    watch = Watch()
    tasks = [seekr.Task(**task) for task in config["tasks"]]
    seekr.learn(**config | {"tasks": tasks}, output_dir=run, callbacks=[watch])
    return watch.seen


def looks(folder: Path, config: dict[str, Any], count: int) -> dict[str, float]:
    """Command → seconds that it takes for the finished run, in a process of its own."""
    found = {}
    for command in LOOKS:
        more = ["--output", str(folder / "page.html")] if command == "report" else []
        found[command] = called([command, str(folder / "run"), *more])
    for name, tasks in (("learn, nothing left", count), ("learn, a task more", count + 1)):
        path = folder / "config.json"
        write_json(path, first(config, tasks) | {"output_dir": "run"})
        found[name] = called(["learn", str(path)])
    return found


def beside(folder: Path, config: dict[str, Any], learned: int) -> dict[str, float]:
    """A task's seconds in the run, which has `learned` some, and in one that has just begun, both at work at once."""
    processes = []
    for run, count in (("run", learned + BESIDE), ("new", BESIDE)):
        write_json(folder / f"{run}.json", first(config, count))
        command = [sys.executable, __file__, str(folder), "--worker", run]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    each = []
    for process in processes:
        seen = json.loads(process.communicate()[0].splitlines()[-1])[-11:]
        each.append(median(after["cpu_seconds"] - before["cpu_seconds"] for before, after in pairwise(seen)))
    return {"late": each[0], "early": each[1], "ratio": each[0] / each[1]}


def called(words: Sequence[str]) -> float:
    process = subprocess.Popen([sys.executable, "-m", "seekr", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"{words}: ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def grown(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Each measure of the tasks up to the 20th and of the last ones, medians of nine."""
    found = {}
    for key in ("cpu_seconds", "per_loop", "read_bytes", "resident_bytes", "open_files"):
        early, late = (median(row[key] for row in some) for some in (rows[EARLY - TOGETHER : EARLY], rows[-TOGETHER:]))
        found[key] = {f"task {EARLY}": early, "last": late, "ratio": late / early}
    return found


def sizes(run: Path) -> dict[str, int]:
    stages = run / "stages"
    return {
        "scores.json": (run / "scores.json").stat().st_size,
        "run.json": (run / "run.json").stat().st_size,
        "page": (run.parent / "page.html").stat().st_size,
        "logs": sum(path.stat().st_size for path in stages.glob("*/log.jsonl")),
        "memories": sum(path.stat().st_size for path in stages.glob("*/memory/*")),
    }


if __name__ == "__main__":
    main()
