"""What became of general ability: that of rows or tasks which a run does not train on."""

from __future__ import annotations

from typing import Any

from seekr.report.summary import decimal
from seekr.runs.run import Run


def general_lines(run: Run) -> list[str]:
    """Such as "general ability 20.8 → 17.1": of the base model and the newest; nothing where none was measured."""
    change = None if run.scored is None else run.scored.general_change
    return [] if change is None else [f"general ability {decimal(change[0])} → {decimal(change[1])}"]


def general_json(run: Run) -> dict[str, Any]:
    """The same for `--json`; null = not measured."""
    before, now = (run.scored.general_change if run.scored is not None else None) or (None, None)
    return {"before": before, "now": now}
