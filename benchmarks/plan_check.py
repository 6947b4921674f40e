"""Whether plans come true: memory and time of runs as `seekr plan` says before, and as measured.

    python benchmarks/plan_check.py OUTPUT_DIR --json benchmarks/results/plan.json [--cases NAME ...]

Each run is `seekr.learn` in a process of its own on one thread. Memory: the process's high-water mark above what a
process holds after a run of the built-in model on two rows, which has imported all that a run imports; the allocator is
set to hand freed blocks back at once. Time: processor seconds of the optimizer steps, so that other work on the
machine does not count, next to the plan's at the tokens per second of another, shorter run of the same model and
settings: one task, a third of its rows, so that nothing is replayed, without its first step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from random_model import write_random_model

ROWS, BATCH, RATIO = 12, 2, 0.5
MODELS = {
    "10M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "vocab_size": 8192},
    "47M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "vocab_size": 8192},
}
HEADS_AND_POSITIONS = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024}


@dataclass(frozen=True)
class Case:
    """One run: a model, what is trained, how, and on how long rows."""

    model: str
    trains: str
    method: str
    checkpointing: bool
    length: int

    @property
    def name(self) -> str:
        checkpointing = "-checkpointing" if self.checkpointing else ""
        return f"{self.model}-{self.trains}-{self.method}{checkpointing}-{self.length}"


CASES = [
    Case("10M", "full", "sequential", False, 512),
    Case("10M", "full", "seekr", True, 1024),
    Case("47M", "full", "sequential", False, 256),
    Case("47M", "lora", "seekr", False, 256),
    Case("10M", "lora", "sequential", True, 512),
    Case("10M", "full", "seekr", False, 512),
    Case("47M", "full", "seekr", True, 512),
    Case("47M", "full", "sequential", True, 1024),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.output_dir.absolute()
    if arguments.worker:
        print(json.dumps(measure(json.loads(arguments.worker))))
        return
    from seekr.bench import describe_machine

    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        write_random_model(folder / name, model_max_length=1024, **MODELS[name], **HEADS_AND_POSITIONS)
    rows = []
    for case in CASES:
        if case.name in arguments.cases:
            rows.append(check(case, folder))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def check(case: Case, folder: Path) -> dict[str, Any]:
    """What was planned for a case and what came of it."""
    from seekr.planning.plan import make_plan

    short, whole = (settings(case, folder, rows=rows, tasks=tasks) for rows, tasks in ((ROWS // 3, 1), (ROWS, 2)))
    nothing = in_a_process(baseline(case, folder), folder)
    trial = in_a_process(short, folder)
    steps = ROWS // 3 // BATCH
    speed = make_plan(configuration(short)).tokens * (steps - 1) / steps / sum(trial["step_seconds"][1:])
    plan = make_plan(configuration(whole), tokens_per_second=speed)
    run = in_a_process(whole, folder)
    memory, seconds = run["peak_bytes"] - nothing["resident_bytes"], 3600 * (plan.hours or 0)
    taken = sum(run["step_seconds"])
    return asdict(case) | {
        "parameters": plan.paper.parameters,
        "largest_phase": plan.largest.name,
        "planned_bytes": plan.largest.total,
        "measured_bytes": memory,
        "memory_ratio": plan.largest.total / memory,
        "tokens_per_second": speed,
        "planned_seconds": seconds,
        "measured_seconds": taken,
        "time_ratio": seconds / taken,
        "parts": plan.largest.parts,
    }


def settings(case: Case, folder: Path, *, rows: int, tasks: int) -> dict[str, Any]:
    """The configuration of a run, as the YAML file would have it."""
    training = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "gradient_checkpointing": case.checkpointing,
        "use_cpu": True,
    }
    return {
        "model": str(folder / case.model),
        "tasks": [
            {"name": name, "train": str(rows_file(folder, name, case.length, rows)), "max_new_tokens": 4}
            for name in ("upper", "reverse")[:tasks]
        ],
        "method": {"name": case.method} | ({"replay_ratio": RATIO} if case.method == "seekr" else {}),
        "training": training,
        "lora": {"r": 16, "target_modules": "all-linear"} if case.trains == "lora" else None,
        "max_length": case.length,
        "keep_stages": "last",
        "output_dir": str(folder / "runs" / f"{case.name}-{rows}"),
    }


def baseline(case: Case, folder: Path) -> dict[str, Any]:
    """A run of the same kind that needs next to nothing: two rows of 32 tokens and the built-in model."""
    from seekr.builtin import builtin_model

    raw = settings(case, folder, rows=2, tasks=2)
    for task in raw["tasks"]:
        task["train"] = str(rows_file(folder, task["name"], 32, 2))
    return raw | {"model": str(builtin_model()), "max_length": 32}


def configuration(raw: dict[str, Any]) -> Any:
    """`raw` as `seekr learn` would read it."""
    from seekr.config.schema import make_config, resolve_paths

    return resolve_paths(make_config(raw, "plan_check"), Path.cwd())


def rows_file(folder: Path, task: str, length: int, count: int) -> Path:
    """`count` rows of about `length` tokens, some shorter: built-in rows, joined."""
    from seekr.builtin import builtin_rows

    path = folder / "rows" / f"{task}-{length}-{count}.json"
    path.parent.mkdir(exist_ok=True)
    joined = max(1, length // 12)
    rows = builtin_rows(task, "train", seed=0, count=joined * count)
    texts = ["\n".join(row["prompt"] + row["answer"] for row in rows[i::count]) for i in range(count)]
    path.write_text(
        json.dumps([{"prompt": text[: len(text) // 2], "answer": text[len(text) // 2 :]} for text in texts])
    )
    return path


def in_a_process(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak memory is the run's."""
    command = [sys.executable, __file__, str(folder), "--worker", json.dumps(raw)]
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    if done.returncode:
        raise RuntimeError(f"{raw['output_dir']}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(raw: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of each optimizer step, this process's high-water mark and what it holds at the end."""
    from transformers import TrainerCallback

    from seekr.bench.meters import held_bytes, peak_bytes
    from seekr.runs.execute import run_request
    from seekr.runs.prepare import Request

    class Clock(TrainerCallback):
        """How long each step of the run took."""

        def __init__(self) -> None:
            self.spent: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.spent.append(time.process_time() - self.begun)

    shutil.rmtree(raw["output_dir"], ignore_errors=True)
    clock = Clock()
    run_request(Request(configuration(raw), callbacks=[clock]))
    shutil.rmtree(raw["output_dir"])
    return {"step_seconds": clock.spent, "peak_bytes": peak_bytes("cpu"), "resident_bytes": held_bytes("cpu")}


if __name__ == "__main__":
    main()
