"""What a run has lost of its stages, and what helps."""

from __future__ import annotations

from pathlib import Path

from seekr.errors import InputError
from seekr.runs.folder import finished_stages, stage_name
from seekr.runs.manifest import LOST, lost_stages
from seekr.runs.record_schema import read_record


def check_begun(run: Path) -> None:
    """Raises InputError where no task is learned yet."""
    if not finished_stages(run):
        goes_on = "its own `seekr learn` command goes on with it"
        raise InputError(lost(run) or f"{run}: no task is learned yet; {goes_on}")


def lost(run: Path) -> str | None:
    """The first stage that a run has lost, and what to do about it: its own command does not go on without. None where
    it has lost none."""
    folder = next(iter(lost_stages(run, read_record(run) or {})), None)
    return None if folder is None else f"{folder}: {LOST}; {mend(folder)}"


def mend(stage: Path) -> str:
    """What helps where something of a stage is not as it was."""
    return f"bring it back from a copy, or learn from there on again by --redo {stage_name(stage)}"
