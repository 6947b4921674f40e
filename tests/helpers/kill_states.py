"""Every state in which a SIGKILL could leave a folder: what stands in it right before each change of a file system."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_watchers: list[Callable[[], None]] = []


def _look(event: str, about: tuple[Any, ...]) -> None:
    writes = event in _CHANGES or (event == "open" and isinstance(about[1], str) and set(about[1]) & set("wxa+"))
    if _watchers and writes:
        watcher = _watchers.pop()  # what it does itself is not looked at
        watcher()
        _watchers.append(watcher)


sys.addaudithook(_look)


def states_while(work: Callable[[], object], folder: Path, copies: Path) -> list[Path]:
    """Does `work`, and copies `folder` before each change that Python makes meanwhile, its lock left out."""
    states: list[Path] = []

    def copy() -> None:
        states.append(copies / f"{len(states):03d}" / folder.name)
        shutil.copytree(folder, states[-1], ignore=shutil.ignore_patterns(".lock"))

    _watchers.append(copy)
    try:
        work()
    finally:
        _watchers.clear()
    return states
