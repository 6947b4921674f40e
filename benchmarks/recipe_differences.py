"""What each difference between paper and released code does on the demo's suite: seeds 10 to 14, test split.

    python benchmarks/recipe_differences.py OUTPUT_DIR --json benchmarks/results/recipes.json --seeds 10 11 12 13 14

SEEKR follows the paper, which replays kept rows once an epoch; each row changes one key to what the released code does,
the last one all of them.
What stands in the JSON is not measured again. Queries are no row: a row of the demo has fewer than 100 tokens, so that
both forms take all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from demo_methods import PAPERS_RULE, add, is_there

from seekr.builtin import builtin_model
from seekr.builtin.demo import TRAINING, write_tasks
from seekr.runs.learn import learn

RELEASED: dict[str, dict[str, Any]] = {
    "importance": {"importance": "sum_of_products"},
    "norms": {"norm": "mean_square"},
    "sensitivity entries": {"entries": "all"},
    "logit loss": {"logit_shift": False},
    "attention loss": {"reduction": "per_layer"},
    "replay set": {"replay_choice": "first"},
}
VARIANTS = {
    **RELEASED,
    "released code": {key: value for change in RELEASED.values() for key, value in change.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in VARIANTS:
            if not is_there({"variant": name, "seed": seed}, arguments.json):
                add(run_one(name, seed, arguments.output_dir), arguments.json)


def run_one(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run, as a row of the result."""
    run = learn(
        model=builtin_model(),
        tasks=write_tasks(folder, seed, "test"),
        output_dir=folder / f"{name.replace(' ', '-')}-{seed}",
        method={"name": "seekr", **PAPERS_RULE, **VARIANTS[name]},
        training=TRAINING,
        cells="paper",
        keep_stages="last",
        seed=seed,
    )
    scores = run.scores
    return {
        "variant": name,
        "change": VARIANTS[name],
        "seed": seed,
        "overall_performance": scores.overall_performance,
        "backward_transfer": scores.backward_transfer,
    }


if __name__ == "__main__":
    main()
