"""Every method on the demo's suite: seeds 10 to 14, test split.

    python benchmarks/demo_methods.py OUTPUT_DIR --json benchmarks/results/demo_methods.json [--methods NAME ...]

The demo's own five were chosen on seeds 0 to 2 of the eval split, the others on seed 0, by `demo_settings.py`: what was
tried stands in `results/demo_settings.jsonl`. Methods that keep rows keep 2% of them. What stands in the JSON is not
measured again: to do so, take its rows out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from seekr.bench import describe_machine
from seekr.builtin import builtin_model
from seekr.builtin.demo import METHODS, TRAINING, write_tasks
from seekr.runs.learn import learn

SEEDS = (10, 11, 12, 13, 14)
_LORA = {"r": 16, "lora_alpha": 16, "target_modules": "all-linear"}
_PROMPTS = {"training.learning_rate": 0.02, "max_length": 60}
OTHERS: dict[str, dict[str, Any]] = {
    "ewc": {"penalty_weight": 10000.0},
    "lwf": {},
    "averaging": {},
    "kl_anchor": {},
    "olora": {"training.learning_rate": 0.002, "lora": _LORA},
    "l2p": {**_PROMPTS, "training.learning_rate": 0.1},
    "progressive_prompts": _PROMPTS,
    "lfpt5": _PROMPTS,
    "hft": {},
    "osf": {"training.learning_rate": 0.002},
    "agem": {"replay_ratio": 0.02},
    "on_policy_replay": {"replay_ratio": 0.02},
}
"""Settings of the methods that the demo leaves out; `training.KEY` and `max_length` are keys of the run.

`general_replay` is not among them: the suite has no general rows.
"""


PAPERS_RULE = {**METHODS["seekr"], "replay_passes": None, "attention_weight": 10.0}
"""SEEKR's settings in `recipe_differences.py` and `teacher_forms.py`: kept rows once an epoch, and a weight chosen for
that. Its own rows are `results/demo_papers_rule.json`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *OTHERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for method in arguments.methods:
            if not is_there({"method": method, "seed": seed}, arguments.json):
                add(run_one(method, seed, arguments.output_dir), arguments.json)


def run_one(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run, as a row of the result."""
    start = time.monotonic()
    run = learn(
        model=builtin_model(),
        tasks=write_tasks(folder, seed, "test"),
        output_dir=folder / f"{method}-{seed}",
        cells="paper",
        keep_stages="last",
        seed=seed,
        **split_settings(method, METHODS.get(method) or OTHERS.get(method, {})),
    )
    scores = run.scores
    row = {"method": method, "seed": seed, "overall_performance": scores.overall_performance}
    row |= {"backward_transfer": scores.backward_transfer, "last_row": scores.matrix[-1]}
    learned = [None if scores.matrix[i][i] is None else scores.matrix[i][i] for i in range(len(scores.tasks))]
    return row | {"when_learned": learned, "seconds": round(time.monotonic() - start, 1)}


def split_settings(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `learn` from settings of a method, of training, and of the run."""
    training = {key.removeprefix("training."): value for key, value in settings.items() if key.startswith("training.")}
    run = {key: settings[key] for key in ("max_length", "lora") if key in settings}
    own = {key: value for key, value in settings.items() if not key.startswith("training.") and key not in run}
    return {"method": {"name": method, **own}, "training": {**TRAINING, **training}, **run}


def is_there(known: dict[str, Any], file: Path) -> bool:
    """Whether the JSON has a row with these values."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return any(known.items() <= row.items() for row in rows)


def add(row: dict[str, Any], file: Path) -> None:
    """Prints a row and appends it to those of the JSON."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    file.write_text(json.dumps({"machine": describe_machine(), "rows": [*rows, row]}, indent=1) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
