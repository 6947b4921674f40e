"""What each method costs compared with plain fine-tuning, and where it runs: the measured cells of the method table.

    python benchmarks/method_costs.py OUTPUT_DIR --json benchmarks/results/methods.json [--methods NAME ...]

A random Llama of 25 million parameters learns two tasks of 48 rows in float32, batches of 8 rows of about 200 tokens,
default settings, 6 rows of each task kept; each run is a process of its own, all methods in turn, three rounds; times
are medians. The distances come from `method_checks.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from random_model import OF_25_MILLION, write_random_model

ROUNDS = 3
ROWS, BATCH, RATIO, JOINED = 48, 8, 0.125, 9
MEASURED = ("step_seconds", "task_seconds", "peak_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.output_dir)))
        return
    from seekr.bench import describe_machine
    from seekr.methods import METHODS

    methods = arguments.methods or list(METHODS)
    folder = arguments.output_dir
    write_random_model(folder / "model", **OF_25_MILLION)
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(ROUNDS):
        for method in methods:
            runs[method].append(in_a_process(method, folder))
            print(f"round {number + 1} of {ROUNDS}: {method} {runs[method][-1]}", flush=True)
    checks = check(methods, folder / "checks")
    rows = []
    for method in methods:
        row = {"method": method} | {key: median(run[key] for run in runs[method]) for key in MEASURED}
        row |= {key: runs[method][0][key] for key in ("kept_bytes", "model_bytes")} | facts(METHODS[method])
        rows.append(row | {name: checks[name][method] for name in checks})
    arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def facts(kind: Any) -> dict[str, Any]:
    """What a method's class says of it."""
    from seekr.methods.form import ModelForm

    form = kind().form
    return {
        "adapter": form.adapter,
        "old_data": "all" if kind.joint else "generated" if kind.generates else "rows" if kind.keeps else "none",
        "told_task": type(form).tell_task is not ModelForm.tell_task,
    }


def in_a_process(method: str, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak memory is the method's."""
    command = [sys.executable, __file__, str(folder), "--worker", method]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    if done.returncode:
        raise RuntimeError(f"{method}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(method: str, folder: Path) -> dict[str, Any]:
    """Seconds of an optimizer step (mean over the last task), of the last task with all that belongs to it, bytes."""
    from method_checks import OF_SKILLS
    from transformers import TrainerCallback

    import seekr
    from seekr.builtin import builtin_rows
    from seekr.methods import METHODS

    class Clock(TrainerCallback):
        """When the steps of the task in training began and ended."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.starts: list[float] = []
            self.ends: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.starts.append(time.monotonic())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.monotonic())

    def task(name: str, *, learn: bool = True) -> seekr.Task:
        rows = builtin_rows(name, "train", seed=0, count=ROWS * JOINED)
        texts = ["\n".join(row["prompt"] + row["answer"] for row in rows[i::ROWS]) for i in range(ROWS)]
        joined = [{"prompt": text[: len(text) // 2], "answer": text[len(text) // 2 :]} for text in texts]
        return seekr.Task(name, train=joined, separator="", learn=learn)

    output = folder / f"run-{method}"
    shutil.rmtree(output, ignore_errors=True)
    settings = {"replay_ratio": RATIO} if "replay_ratio" in METHODS[method]().settings() else {}
    clock = Clock()
    skills = [task("sort", learn=False)] if method in OF_SKILLS else []
    tasks = [*skills, task("upper"), task("reverse")]
    common: dict[str, Any] = {
        "model": folder / "model",
        "output_dir": output,
        "method": {"name": method, **settings},
        "training": {"per_device_train_batch_size": BATCH, "num_train_epochs": 1, "save_steps": 1000},
        "max_length": 400,
        "cells": "paper",
        "keep_stages": "last",
        "callbacks": [clock],
    }
    if not METHODS[method].joint:
        seekr.learn(tasks=tasks[:-1], **common)
    start = time.monotonic()
    run = seekr.learn(tasks=tasks, **common)
    seconds = time.monotonic() - start
    stages = [stage.folder for stage in run.stages]
    weights = sum(path.stat().st_size for path in (stages[-1] / "model").glob("*model*.safetensors"))
    everything = sum(path.stat().st_size for path in stages[-1].rglob("*.safetensors"))
    return {
        "step_seconds": mean(end - begin for begin, end in zip(clock.starts[1:], clock.ends[1:], strict=True)),
        "task_seconds": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "kept_bytes": everything - weights,
        "model_bytes": (folder / "model" / "model.safetensors").stat().st_size,
    }


def check(methods: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """The distances of `method_checks.py`, by check and method."""
    import method_checks as checks

    apart = [method for method in methods if method != "joint"]
    found: dict[str, dict[str, Any]] = {
        "gradient_checkpointing": {
            method: checks.with_gradient_checkpointing(method, folder / "checkpointing" / method) for method in methods
        }
    }
    for kind in ("ddp", "fsdp"):
        found[kind] = checks.on_two_processes(kind, methods if kind == "ddp" else apart, folder / kind)
    found["fsdp"]["joint"] = found["fsdp"].get("sequential")  # the same loss on other rows
    return found


if __name__ == "__main__":
    main()
