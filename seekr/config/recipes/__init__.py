"""Shipped configurations, to be named instead of written: `seekr learn --recipe NAME [--recipe NAME ...]`.

A recipe is a YAML file of this folder: the tasks and training of a benchmark, or a method's settings. What it leaves
open (the model, the data) is said by `key=value` words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seekr.errors import InputError, nearest

_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """All that `--recipe` takes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The keys and values of one recipe. Raises InputError that names the nearest one."""
    from seekr.config.yaml import read_yaml

    if name not in recipe_names():
        raise InputError(f"--recipe {name!r}: there is no such recipe; {nearest(name, recipe_names())}")
    return read_yaml(_FOLDER / f"{name}.yaml")


def read_recipes(names: Sequence[str]) -> dict[str, Any]:
    """Several recipes as one configuration, still without what the user says: later ones win, key by key.

    Raises:
        InputError: for an unknown name.
    """
    merged: dict[str, Any] = {}
    for name in names:
        merged = merge(merged, read_recipe(name))
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above`; mappings that both have are merged, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def default_output_dir(names: Sequence[str], *method: str) -> str:
    """Where a run of recipes goes unless output_dir is said: runs/<recipes>-<method>, and a sweep in runs/<recipes>."""
    return str(Path("runs") / "-".join([*dict.fromkeys(names), *method]))
