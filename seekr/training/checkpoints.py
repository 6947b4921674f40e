"""Checkpoints inside a task, as they lie on the disk: whole by a marker that comes last; read without torch.

The marker has the sizes and hashes of the checkpoint's files, of the log of the task as it was then, and its own.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from seekr.disk.files import Fault, Listing, faults_of_files, has_own_hash, parse_json, with_own_hash, write_json
from seekr.disk.regular import read_bytes
from seekr.disk.sealed import read_text
from seekr.errors import RunError, say

MARKER = "complete.json"
_NEEDED = {
    "state of the optimizer": ("optimizer*", "global_step*"),  # the other names are those of FSDP and DeepSpeed
    "state of the schedule": ("scheduler.pt", "global_step*"),
    "random state": ("rng_state*.pth",),
    "state of the Trainer": ("trainer_state.json",),
    "weights": ("*.safetensors", "*/*.safetensors", "pytorch_model*", "global_step*"),
}
"""Without these the Trainer begins again with new ones, some of them without a word."""


class _File(TypedDict):
    bytes: int
    sha256: str


@with_config(ConfigDict(extra="allow"))
class _Marker(TypedDict):
    step: int
    processes: NotRequired[int]
    files: NotRequired[dict[str, _File]]
    log: NotRequired[_File | None]
    sha256: NotRequired[str]


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
        fault = next(checkpoint_faults(checkpoint, hashed=True), None)
        if fault is None:
            if not _marker(checkpoint).get("files"):
                say(f"{checkpoint}: its {MARKER} lists no files, as those of earlier versions; unverified")
            return checkpoint
        say(f"{fault}; this checkpoint is passed over")
    return None


def mark(checkpoint: Path, *, processes: int, files: Listing, log: Path) -> None:
    """Writes the marker, which says that all else of the checkpoint, and of the log so far, is on the disk."""
    content = {"step": checkpoint_step(checkpoint), "processes": processes, "files": files}
    if log.is_file():
        content["log"] = _about(read_bytes(log))
    write_json(checkpoint / MARKER, with_own_hash(content))


def checkpoint_faults(checkpoint: Path, *, hashed: bool) -> Iterator[Fault]:
    """Each way in which a checkpoint is not as it was written; `hashed`: large files are read too.

    Earlier versions listed no files: what the Trainer needs must be there in any case.
    """
    try:
        marker = _marker(checkpoint)
    except FileNotFoundError:
        yield Fault(checkpoint, "not written to its end")
        return
    except (OSError, ValueError):
        yield Fault(checkpoint / MARKER, "damaged")
        return
    odd = (path for path in checkpoint.rglob("*") if path.exists() and not (path.is_file() or path.is_dir()))
    yield from (Fault(path, "is no file") for path in odd)
    yield from faults_of_files(checkpoint, marker.get("files", {}), hashed=hashed)
    for what, names in _NEEDED.items():
        if not any(path.exists() for name in names for path in checkpoint.glob(name)):
            yield Fault(checkpoint, f"the {what} is missing ({' or '.join(names)})")


def log_fault(checkpoint: Path, log: Path) -> Fault | None:
    """Whether the log of the task has the lines of a checkpoint's steps as they were written.

    None where it has, and where nothing says so: there is no such checkpoint, or it is of an earlier version.
    """
    try:
        about = _marker(checkpoint).get("log")
    except (OSError, ValueError):
        return None
    content = read_bytes(log)[: about["bytes"]] if about and log.is_file() else b""
    return Fault(log, f"not what was written up to {checkpoint.name}") if about and _about(content) != about else None


def is_complete(checkpoint: Path) -> bool:
    """Whether the checkpoint was written to its end, and its files are as they were, as far as is cheap to see."""
    return not any(checkpoint_faults(checkpoint, hashed=False))


def is_marked(checkpoint: Path) -> bool:
    """Whether the checkpoint carries the marker that is written last."""
    return (checkpoint / MARKER).exists()


def _marker(checkpoint: Path) -> _Marker:
    """Raises OSError or ValueError where it is missing, or not what was written for this checkpoint."""
    content = parse_json(read_text(checkpoint / MARKER))
    marker = _MARKER.validate_python(content)
    if marker["step"] != checkpoint_step(checkpoint) or not has_own_hash(content):
        raise ValueError("not what was written")
    return marker


def _about(content: bytes) -> _File:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


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
