"""What a stored form of the teacher's attention does to the scores: seekr on the demo's suite, seeds 10 to 14.

    python benchmarks/teacher_forms.py OUTPUT_DIR --json benchmarks/results/teacher_forms.json [--forms NAME ...]

Test split, kept rows once an epoch, nothing chosen here. The demo's short rows are kept exactly, so that its own runs
(`results/demo_papers_rule.json`) are those of the exact form: `tables.py` gives each form's difference to them, seed by
seed, with its 95% interval. What stands in the JSON is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from demo_methods import PAPERS_RULE, add, is_there

from seekr.builtin import builtin_model
from seekr.builtin.demo import TRAINING, write_tasks
from seekr.runs.learn import learn

FORMS = ("query_key", "rows", "top")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for form in arguments.forms:
            if not is_there({"form": form, "seed": seed}, arguments.json):
                add(run_one(form, seed, arguments.output_dir), arguments.json)


def run_one(form: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run, as a row of the result."""
    run = learn(
        model=builtin_model(),
        tasks=write_tasks(folder, seed, "test"),
        output_dir=folder / f"{form}-{seed}",
        method={"name": "seekr", **PAPERS_RULE, "teacher_form": form},
        training=TRAINING,
        cells="paper",
        keep_stages="last",
        seed=seed,
    )
    scores = run.scores
    row = {"form": form, "seed": seed, "overall_performance": scores.overall_performance}
    return row | {"backward_transfer": scores.backward_transfer}


if __name__ == "__main__":
    main()
