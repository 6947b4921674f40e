"""Nested settings: with dotted keys, where two differ first, and a value as a file has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def as_in_yaml(value: Any) -> str:
    """A value as a configuration file has it: null, true and false; others as Python shows them."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
