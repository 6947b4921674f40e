"""What each difference between paper and released code does on the demo's suite: seeds 10 to 14, test split.

    python benchmarks/recipe_differences.py OUTPUT_DIR --json benchmarks/results/recipes.json --seeds 10 11 12 13 14

The demo's SEEKR follows the paper; each row changes one key to what the released code does, the last one all of them.
Finished runs are not run again. Queries are no row: a row of the demo has fewer than 100 tokens, so both take all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seekr.bench import describe_machine
from seekr.builtin import builtin_model
from seekr.demo import METHODS, TRAINING, write_tasks
from seekr.learner import learn

RELEASED: dict[str, dict[str, Any]] = {
    "importance": {"importance": "sum_of_products"},
    "norms": {"norm": "mean_square"},
    "sensitivity entries": {"entries": "all"},
    "logit loss": {"logit_shift": False},
    "attention loss": {"reduction": "per_layer"},
    "replay set": {"replay_choice": "first"},
}
VARIANTS = {
    "paper": {},
    **RELEASED,
    "released code": {key: value for change in RELEASED.values() for key, value in change.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        for name, change in VARIANTS.items():
            run = learn(
                model=builtin_model(),
                tasks=write_tasks(arguments.output_dir, seed, "test"),
                output_dir=arguments.output_dir / f"{name.replace(' ', '-')}-{seed}",
                method={"name": "seekr", **METHODS["seekr"], **change},
                training=TRAINING,
                keep_stages="last",
                seed=seed,
            )
            scores = run.scores
            rows.append(
                {
                    "variant": name,
                    "change": change,
                    "seed": seed,
                    "overall_performance": scores.overall_performance,
                    "backward_transfer": scores.backward_transfer,
                    "backward_transfer_over_all_tasks": scores.backward_transfer_over_all_tasks,
                }
            )
            arguments.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
