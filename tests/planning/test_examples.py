"""The plans that the docs show are those that the code computes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from tiers import thorough
from transformers.models.llama import modeling_llama

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [*thorough("laptop"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("7b-lora", "7b-full", "70b-full"))],
)
@pytest.mark.skipif(
    not hasattr(modeling_llama, "slice_logits_to_keep"), reason="transformers before 5.23 computes more logits"
)
def test_the_plan_of_an_example_is_the_committed_one(name: str) -> None:
    rows = json.loads((BENCHMARKS / "results" / "plan_examples.json").read_text())["rows"]
    committed = {row["example"]: row for row in rows}
    found = runpy.run_path(str(BENCHMARKS / "plan_examples.py"))["example"](name)
    assert json.loads(json.dumps(found)) == committed[name]


def test_planned_runs_came_true() -> None:
    """Within 15% of measured memory and 30% of measured time."""
    rows = json.loads((BENCHMARKS / "results" / "plan.json").read_text())["rows"]
    assert len(rows) == len(runpy.run_path(str(BENCHMARKS / "plan_check.py"))["CASES"])
    for row in rows:
        assert row["memory_ratio"] == pytest.approx(1, abs=0.15), row
        assert row["time_ratio"] == pytest.approx(1, abs=0.3), row
