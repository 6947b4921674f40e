"""What is in plain text of a run that is encrypted: kept before encryption began, or since, which is a fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from seekr.disk.sealed import is_encrypted, is_encrypted_tensors
from seekr.runs.folder import finished_stages
from seekr.runs.run import Run
from seekr.scoring.cells import BASE


def plain_parts(run: Run) -> tuple[list[str], list[str]]:
    """What is in plain text of an encrypted run, by paths below it: from before encryption began, and from since then.

    Where run.json does not say when it began, all is from before.
    """
    before: list[str] = []
    since: list[str] = []
    if run.record["config"].get("encrypt"):
        began = run.record.get("encrypted_after")
        for stage, path in _parts(run):
            found = before if began is None or stage < began else since
            found.append(path.relative_to(run.folder).as_posix())
    return before, since


def _parts(run: Run) -> Iterator[tuple[int, Path]]:
    """The number of a stage, and what is kept of its task, or was answered by its model, in plain text."""
    for number, stage in enumerate(finished_stages(run.folder)):
        for file in sorted((stage / "memory").glob("*.safetensors")):
            if _is_plain(file):
                yield number, file
    for file in sorted((run.folder / "predictions").glob("*-*.jsonl")):
        row = file.name.partition("-")[0]
        if (row == "base" or row.isdecimal()) and _is_plain(file):
            yield BASE if row == "base" else 0 if run.joint else int(row), file


def _is_plain(file: Path) -> bool:
    """False of one that cannot be read: whoever looks at hashes names it."""
    try:
        return not (is_encrypted_tensors(file) if file.suffix == ".safetensors" else is_encrypted(file))
    except (OSError, SafetensorError):
        return False
