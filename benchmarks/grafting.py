"""The grafting study on the demo's suite: old attention maps put into the last model of three runs a seed.

    python benchmarks/grafting.py OUTPUT_DIR --json benchmarks/results/grafting.jsonl --seeds 10 11 12

`unheld` is `seekr` with attention_weight 0, that is DER++ whose heads are chosen and whose maps nothing holds: there it
can be seen whether the chosen heads are those that carry a task. What stands in the JSON is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from json_rows import add, rows_of

from seekr.builtin import builtin_model
from seekr.builtin.demo import METHODS, TRAINING, write_tasks
from seekr.runs.graft import graft
from seekr.runs.learn import learn

RUNS: dict[str, dict[str, Any]] = {
    "sequential": {"name": "sequential"},
    "unheld": {"name": "seekr", **METHODS["seekr"], "attention_weight": 0.0},
    "seekr": {"name": "seekr", **METHODS["seekr"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True, help="JSON Lines; rows are added")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {(row["run"], row["seed"]) for row in rows_of(arguments.json)}
    for seed in arguments.seeds:
        for name, method in RUNS.items():
            if (name, seed) not in measured:
                add(measure(name, method, seed, arguments.output_dir), arguments.json)


def measure(name: str, method: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Learns a run, as far as that is still to do, and what was found of it."""
    run = learn(
        model=builtin_model(),
        tasks=write_tasks(folder, seed, "test"),
        output_dir=folder / f"{name}-{seed}",
        method=method,
        training=TRAINING,
        cells="seen",
        seed=seed,
    )
    found = [one.to_json() for one in graft(run.folder)]
    return {"run": name, "seed": seed, "method": run.config.method, "found": found}


if __name__ == "__main__":
    main()
