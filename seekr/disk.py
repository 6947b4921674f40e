"""Files that are whole whenever they are there, and on the disk once it was said that they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from seekr.errors import InputError, RunError


def user_path(name: str | Path) -> Path:
    """A path as a person wrote it, with its `~` expanded. Raises InputError where no file can be called so."""
    shown = f"{str(name)[:60]!r}{'…' if len(str(name)) > 60 else ''}"
    try:
        path = Path(name).expanduser()
        bad = b"\0" in os.fsencode(path) or any(len(os.fsencode(part)) > 255 for part in path.parts)
    except (RuntimeError, UnicodeError):  # another person's home that is not there; half of a character
        bad = True
    if bad or len(os.fsencode(path)) > 4000:
        raise InputError(f"{shown}: no file or folder can have this name; write another one")
    return path


def check_writable(path: Path | None, name: str) -> None:
    """Raises InputError where a file that is to be written once all is done could not be, `name` being its option."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InputError(f"{name}: {path} cannot be written: its folder is missing, or it is a folder itself")


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file; a reader, or a crash, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file that a run has written. Raises RunError where it is broken or missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def flush(folder: Path) -> None:
    """Sees to it that every file and folder below `folder` is on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Sees to it that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
