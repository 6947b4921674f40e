"""One candidate for a method's settings in the demo, scored on the eval split: how they were chosen.

    python benchmarks/demo_settings.py OUTPUT_DIR seekr attention_weight=10 head_budget=8 --seeds 0 1 2
    python benchmarks/demo_settings.py OUTPUT_DIR olora training.learning_rate=0.005 --seeds 0

Prints one line of JSON a seed. Seeds 10 to 14 and the test split are for what is reported (`demo_methods.py`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml
from demo_methods import split_settings

from seekr.builtin import builtin_model
from seekr.builtin.demo import write_tasks
from seekr.runs.learn import learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("method")
    parser.add_argument("settings", nargs="*", help="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], choices=range(10))
    arguments = parser.parse_intermixed_args()
    settings = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in arguments.settings)}
    for seed in arguments.seeds:
        name = "-".join([arguments.method, *arguments.settings, str(seed)])
        run = learn(
            model=builtin_model(),
            tasks=write_tasks(arguments.output_dir, seed, "eval"),
            output_dir=arguments.output_dir / name,
            cells="paper",
            keep_stages="last",
            seed=seed,
            **split_settings(arguments.method, settings),
        )
        scores = run.scores
        row = {"method": arguments.method, **settings, "seed": seed}
        row |= {"overall_performance": scores.overall_performance, "backward_transfer": scores.backward_transfer}
        print(json.dumps(row | {"last_row": scores.matrix[-1]}), flush=True)


if __name__ == "__main__":
    main()
