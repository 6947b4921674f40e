"""A file of measurements: a line of JSON each, added as soon as it is known, by any number of processes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows that are whole: a process that was killed may have left a part of one."""
    rows = []
    for line in file.read_text(encoding="utf-8").split("\n") if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def add(row: dict[str, Any], file: Path) -> None:
    """Adds a line to the JSON in one write, also while other processes add theirs, and prints it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(row)
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, f"{chr(10) if torn else ''}{text}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    print(text, flush=True)


@cache
def commit() -> str | None:
    """The commit that is run, with a + where files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
