"""Runs as earlier versions left them."""

from __future__ import annotations

import json
from pathlib import Path


def as_of_before_manifests(run: Path) -> None:
    """Makes a run one of a version that wrote no hashes."""
    for manifest in run.glob("stages/*/manifest.json"):
        manifest.unlink()
    without(run / "run.json", "unverified", "sha256", "stages")
    if (run / "scores.json").is_file():
        without(run / "scores.json", "sha256", "answered_by")


def without(path: Path, *keys: str) -> None:
    """Takes keys out of a JSON file that earlier versions did not write."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in keys}))
