"""The device memory that `seekr plan` says of the study's runs, next to what they took on a GPU.

    python benchmarks/plan_gpu.py MODEL --data DATA --json benchmarks/results/plan_gpu.json

The runs are those of `results/study_smollm2_gpu.jsonl`, one of each method and share of kept rows; what they took is
the most that PyTorch had given out. Plans are made on this machine, which needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from evidence_tables import keeps_by_default
from study_suites import SUITES, write_tasks
from study_tables import read_study

from seekr.bench import describe_machine
from seekr.config.schema import make_config, resolve_paths
from seekr.modeling.loading import load_tokenizer
from seekr.planning.plan import make_plan
from seekr.runs.record import describe_task

MEASURED = Path(__file__).parent / "results" / "study_smollm2_gpu.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    model, data = given.model.absolute(), given.data.absolute()
    with tempfile.TemporaryDirectory() as folder:
        rows = [planned(row, model, data, Path(folder)) for row in first_of_each(read_study(MEASURED))]
    given.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def first_of_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seeds of one method differ by the lengths of their rows alone, and attention weights by nothing."""
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row["method"], keeps_by_default(row)), row)
    return list(found.values())


def planned(row: dict[str, Any], model: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Bytes of the run of a row of the study, as planned and as measured."""
    suite, settings = SUITES[row["suite"]], row["settings"]
    tokenizer = load_tokenizer(str(model))
    tasks, _ = write_tasks(suite, data, folder, seed=row["seed"], split=row["split"], tokenizer=tokenizer)
    raw = {
        "model": str(model),
        "tasks": [describe_task(task) for task in tasks],
        "method": settings["method"],
        "training": settings["training"],
        "lora": settings["lora"],
        "max_length": suite.max_length,
        "output_dir": str(folder / "run"),
    }
    largest = make_plan(resolve_paths(make_config(raw, "plan_gpu"), Path.cwd())).largest
    found = {"method": row["method"], "keeps_by_default": keeps_by_default(row), "gpu": row["machine"]["gpu"]}
    found |= {"phase": largest.name, "planned_bytes": largest.total, "parts": largest.parts}
    return found | {"measured_bytes": row["peak_bytes"]["gpu"]}


if __name__ == "__main__":
    main()
