"""The demo on the seeds that are reported, 10 to 14, on the test split: mean ± standard deviation as a Markdown table.

    python benchmarks/demo_seeds.py OUTPUT_DIR --json benchmarks/results/demo.json

Each seed is `seekr demo --seed N` in `OUTPUT_DIR/seed-N`; stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tables import demo_table

SEEDS = (10, 11, 12, 13, 14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    write_rows(arguments.output_dir, arguments.json)
    print(demo_table(json.loads(arguments.json.read_text())["rows"]))


def write_rows(output_dir: Path, file: Path) -> None:
    from seekr.demo import run_demo

    result: dict[str, Any] = {"rows": []}
    for seed in SEEDS:
        part = output_dir / f"seed-{seed}.json"
        part.parent.mkdir(parents=True, exist_ok=True)
        run_demo(output_dir / f"seed-{seed}", seed=seed, json_file=part)
        found = json.loads(part.read_text())
        result = {"machine": found["machine"], "rows": result["rows"] + found["rows"]}
        file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
