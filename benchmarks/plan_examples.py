"""The plans that docs/planning.md shows, computed from benchmarks/plans: no weights, no rows, no GPU.

python benchmarks/plan_examples.py --json benchmarks/results/plan_examples.json [--examples NAME ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PLANS = Path(__file__).parent / "plans"
EXAMPLES: dict[str, dict[str, int]] = {
    "laptop": {"device_memory": 16 * 10**9, "devices": 1},
    "7b-lora": {"device_memory": 80 * 10**9, "devices": 1},
    "7b-full": {"device_memory": 80 * 10**9, "devices": 8},
    "70b-full": {"device_memory": 80 * 10**9, "devices": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--examples", nargs="+", default=list(EXAMPLES))
    arguments = parser.parse_args()
    rows = {row["example"]: row for row in _known(arguments.json)}
    for name in arguments.examples:
        rows[name] = example(name)
        found = [rows[known] for known in EXAMPLES if known in rows]
        arguments.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")


def example(name: str) -> dict[str, Any]:
    """The plan of a configuration in benchmarks/plans, as `seekr plan --json` writes it, without its notes."""
    from seekr.config.schema import load_config
    from seekr.planning.plan import make_plan

    plan = make_plan(load_config(PLANS / f"{name}.yaml"), **EXAMPLES[name])
    shown = plan.to_json() | {"model": Path(plan.run.config.model).name}
    return {"example": name} | {key: value for key, value in shown.items() if key != "notes"}


def _known(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


if __name__ == "__main__":
    main()
