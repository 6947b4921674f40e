"""What a run needs, on paper, before any weights are loaded: `seekr plan`."""

from __future__ import annotations

from pathlib import Path

from seekr.config.schema import Config
from seekr.disk import write_json


def run_plan(
    config: Config,
    *,
    tokens_per_second: float | None = None,
    device_memory: int | None = None,
    devices: int = 1,
    json_file: Path | None = None,
) -> None:
    """Prints the plan of a run, and writes it as JSON where a file is named; see `seekr.planning.plan.make_plan`."""
    from seekr.modeling.loading import one_kind_of_bar
    from seekr.planning.plan import make_plan
    from seekr.planning.table import renderables
    from seekr.report.tables import print_table

    with one_kind_of_bar():
        plan = make_plan(config, tokens_per_second=tokens_per_second, device_memory=device_memory, devices=devices)
    for renderable in renderables(plan):
        print_table(renderable)
    if json_file is not None:
        write_json(json_file, plan.to_json())
