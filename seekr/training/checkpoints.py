"""Checkpoints inside a task, as they lie on the disk: whole by a marker that comes last; read without torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from seekr.disk import Fault, faults_of_files, parse_json, read_text
from seekr.errors import RunError, say

MARKER = "complete.json"


class _File(TypedDict):
    bytes: int
    sha256: str


@with_config(ConfigDict(extra="allow"))
class _Marker(TypedDict):
    step: int
    processes: NotRequired[int]
    files: NotRequired[dict[str, _File]]


_MARKER = TypeAdapter(_Marker)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that was written to its end, or None; torn ones are passed over."""
    complete = [path for path in checkpoints_of(folder) if is_complete(path)]
    return complete[-1] if complete else None


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are those that were written, by their hashes, or None.

    One that is damaged, or was not written to its end, is passed over, and that is said on stderr.
    """
    for checkpoint in reversed(checkpoints_of(folder)):
        fault: Fault | None = Fault(checkpoint, "not written to its end")
        if is_marked(checkpoint):
            fault = next(iter(checkpoint_faults(checkpoint, hashed=True)), None)
        if fault is None:
            return checkpoint
        say(f"{fault}; this checkpoint is passed over")
    return None


def checkpoint_faults(checkpoint: Path, *, hashed: bool) -> Iterable[Fault]:
    """Each file of a marked checkpoint that is not as it was written; `hashed`: large files are read too.

    Versions of before listed no files.
    """
    if is_marked(checkpoint):
        odd = (path for path in checkpoint.rglob("*") if path.exists() and not (path.is_file() or path.is_dir()))
        yield from (Fault(path, "is no file") for path in odd)
        yield from faults_of_files(checkpoint, _marker(checkpoint).get("files", {}), hashed=hashed)


def is_complete(checkpoint: Path) -> bool:
    """Whether the checkpoint was written to its end, and its files are as they were, as far as is cheap to see."""
    return is_marked(checkpoint) and not any(checkpoint_faults(checkpoint, hashed=False))


def is_marked(checkpoint: Path) -> bool:
    """Whether the checkpoint carries the marker that is written last."""
    try:
        return bool(_marker(checkpoint)["step"] == checkpoint_step(checkpoint))
    except (OSError, ValueError):
        return False


def _marker(checkpoint: Path) -> _Marker:
    return _MARKER.validate_python(parse_json(read_text(checkpoint / MARKER)))


def check_processes(checkpoint: Path, processes: int) -> None:
    """Raises RunError where a complete checkpoint was written by another number of processes."""
    written_by = int(_marker(checkpoint).get("processes", 1))
    if written_by != processes:
        raise RunError(
            f"checkpoint {checkpoint} was written by {written_by} processes, and DeepSpeed reads it back with as many "
            f"only, not with {processes}; launch {written_by}, or delete {checkpoint.parent} to learn the task again"
        )


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints in the working folder of a task, torn ones too, by their steps."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and re.fullmatch(r"\d+", path.name[11:])]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint folder was written after."""
    return int(checkpoint.name[11:])


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes it; killed in between, it counts as torn."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
