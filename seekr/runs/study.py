"""What is measured of a run besides its scores (graft.json, general.json): as it was written, and of this run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seekr.disk.files import has_own_hash, read_json, with_own_hash, write_json
from seekr.errors import InputError
from seekr.runs.log import read_whole
from seekr.runs.manifest import link_of

_RUN = "beginning"


def write_study(run: Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes what was measured of the run, with a hash of its own and what says of which run it is."""
    write_json(run / name, with_own_hash({_RUN: _beginning(run), **content}))


def read_study(run: Path, name: str, mend: str) -> Any:
    """The same; None where nothing was measured. Raises InputError, which ends in `mend`, where it is not as it was."""
    path = run / name
    if not os.path.lexists(path):
        return None
    content = read_whole(path, mend)
    if content is None:
        raise InputError(f"{path}: holds nothing; {mend}")
    if isinstance(content, dict) and not has_own_hash(content):
        raise InputError(f"{path}: not what was written; {mend}")
    if isinstance(content, dict) and content.get(_RUN) not in (None, _beginning(run)):
        raise InputError(f"{path}: of another run; {mend}")
    return content


def _beginning(run: Path) -> str | None:
    """Whose it is: the run's, or that of one which goes on from it; None where run.json is of an earlier version."""
    path = run / "run.json"
    record = read_json(path) if path.is_file() else {}
    return link_of((), record) if "clock" in record else None
