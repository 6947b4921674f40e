"""What makes two runs the same one: compared whenever a command finds a run in its output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seekr.errors import InputError

_SHOWN = 60


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys: {"lora": {"r": 8}} becomes {"lora.r": 8}. An empty mapping is no key at all."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first dotted key whose values differ, with both values; "not set" stands for a key that is missing."""
    old, new = flatten(there), flatten(here)
    for key in [*new, *(key for key in old if key not in new)]:
        values = old.get(key, "not set"), new.get(key, "not set")
        if values[0] != values[1]:
            return key, *values
    return None


def compare(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises InputError naming the first difference between the run in `folder` and the one that is asked for."""
    difference = first_difference(there, json.loads(json.dumps(here)))  # as it will be read back: no tuples
    if difference is not None:
        key, old, new = difference
        raise InputError(
            f"{folder} holds a different run: {key} is {_short(old)} there and {_short(new)} here; "
            "choose another output_dir, or the old value"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
