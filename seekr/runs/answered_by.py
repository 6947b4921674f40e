"""Whose scores stand in scores.json: the hash of the file, and for each row of the matrix the model that answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from seekr.disk.files import Fault
from seekr.errors import InputError
from seekr.runs.manifest import chain_faults, read_manifest
from seekr.scoring.cells import BASE, JOINT, row_name

ANSWERED_BY: Final = "answered_by"


def model_of(stage: Path, base: str) -> str | None:
    """The hash of what a stage's manifest has of its weights, the `base` of a skill, which trains nothing.

    None where the manifest is not there, or damaged.
    """
    try:
        files = read_manifest(stage)["files"]
    except InputError:
        return None  # said with its files
    weights = {name: about["sha256"] for name, about in files.items() if name.startswith("model/")}
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest() if weights else base


def answered_by_faults(
    path: Path, models: Mapping[str, str], stages: Sequence[Path], record: Mapping[str, Any], rows: int
) -> Iterator[Fault]:
    """Whether the scores in scores.json are of the models of this run, where these are its own (`chain_faults`).

    Args:
        path: scores.json.
        models: what it says of that: name of a row of the matrix → its model, as `model_of` names it.
        stages: the finished ones.
        record: run.json.
        rows: how many tasks there are; a joint run has one stage, after the last.
    """
    base, joint = record["model_fingerprint"], record["config"]["method"]["name"] == JOINT
    places = zip([rows - 1] if joint else range(rows), stages, strict=False)
    there = {row_name(row): model_of(stage, base) for row, stage in places if row_name(row) in models}
    there[row_name(BASE)] = base
    wrong = [row for row, model in there.items() if model is not None and models.get(row, model) != model]
    if wrong and not any(chain_faults(stages, record)):
        yield Fault(
            path,
            f"row {', '.join(wrong)} of its scores was answered by a model that is not in this run; bring it back with "
            "predictions from a copy, or move both away, and `seekr evaluate` asks again",
        )
