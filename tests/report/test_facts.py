"""Model, data, dates and command of a page, from what its runs say; what is older or damaged says less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_runs import write_run

from seekr.report.facts import facts
from seekr.runs.run import Run


def said(folder: Path, **changed: object) -> None:
    record = json.loads((folder / "run.json").read_text())
    config = record["config"] | {key: changed.pop(key) for key in ("model",) if key in changed}
    (folder / "run.json").write_text(json.dumps(record | changed | {"config": config}))


@pytest.mark.parametrize(
    ("model", "name"),
    [("owner/base", "owner/base"), ("/home/me/base", "base"), ("/home/me/stages/00-a/model", "00-a/model")],
)
def test_facts_are_those_of_the_runs(tmp_path: Path, model: str, name: str) -> None:
    folders = [write_run(tmp_path / f"run {seed}", seed=seed, tasks=("a", "b"), steps=3) for seed in (0, 1)]
    for day, folder in enumerate(folders, start=1):
        said(folder, model=model, clock=f"2026-11-0{day}T10:00:00", versions={"seekr": "0.1.0"})
        for rows, stage in enumerate(Run(folder).stages, start=1):
            (stage.folder / "stage.json").write_text(json.dumps({"rows": {stage.name: {"rows": 1000 * rows}}}))
    assert dict(facts([Run(folder) for folder in folders], folders)) == {
        "Model": name,
        "Data": "1,000 to 2,000 rows to learn of each task; scored by accuracy, rouge_l",
        "Begun": "2026-11-01 to 2026-11-02, seekr 0.1.0",
        "Command": f"seekr report '{tmp_path}/run 0' '{tmp_path}/run 1'",
    }


@pytest.mark.parametrize("content", [None, "", "[]", '{"rows": 3}', '{"rows": {"a": {}}}', "\0"])
def test_a_damaged_stage_says_nothing_of_its_rows(tmp_path: Path, content: str | None) -> None:
    run = write_run(tmp_path / "run", tasks=("a", "b"), steps=3)
    if content is not None:
        (Run(run).stages[0].folder / "stage.json").write_text(content)
    assert dict(facts([Run(run)], [run])) == {
        "Model": "tiny-llama",
        "Data": "scored by accuracy, rouge_l",
        "Command": f"seekr report {run}",
    }
