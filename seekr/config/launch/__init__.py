"""Shipped configurations of `accelerate launch`: `--config_file "$(seekr launch-config NAME)"` takes one."""

from __future__ import annotations

from pathlib import Path

from seekr.errors import InputError, nearest

_FOLDER = Path(__file__).parent


def launch_names() -> list[str]:
    """All that `seekr launch-config` takes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def launch_file(name: str) -> Path:
    """The file of one of them. Raises InputError that names the nearest one."""
    if name not in launch_names():
        raise InputError(f"launch-config {name!r}: there is no such launch; {nearest(name, launch_names())}")
    return _FOLDER / f"{name}.yaml"
