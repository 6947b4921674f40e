"""The methods of `study.py`: a label, and the settings that it stands for, with dotted keys."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from seekr.errors import InputError, nearest
from seekr.methods import METHODS, make_method

_LORA = {"lora.r": 16, "lora.lora_alpha": 16, "lora.target_modules": "all-linear"}

LABELS: dict[str, dict[str, Any]] = {
    "sequential": {"method.name": "sequential"},
    "joint": {"method.name": "joint"},
    "replay": {"method.name": "replay"},
    "derpp": {"method.name": "derpp"},
    "seekr": {"method.name": "seekr"},
    "seekr-auto": {"method.name": "seekr", "method.attention_weight": "auto"},
    **{f"seekr-fixed-{w}": {"method.name": "seekr", "method.attention_weight": float(w)} for w in (1, 10, 100, 1000)},
    "seekr-random": {"method.name": "seekr", "method.importance": "random"},
    "seekr-sensitivity": {"method.name": "seekr", "method.importance": "sensitivity"},
    "seekr-change": {"method.name": "seekr", "method.importance": "change"},
    "seekr-all": {"method.name": "seekr", "method.layer_budget": "all", "method.head_budget": "all"},
    "unheld": {"method.name": "seekr", "method.attention_weight": 0.0},
    "seekr-lora": {"method.name": "seekr", **_LORA},
    "ewc": {"method.name": "ewc"},
    "lwf": {"method.name": "lwf"},
    "olora": {"method.name": "olora", **_LORA},
    "osf": {"method.name": "osf"},
    "averaging": {"method.name": "averaging"},
    "kl_anchor": {"method.name": "kl_anchor"},
}
"""`seekr` is the method with its own defaults; `unheld` chooses heads as it does, and holds no map of them.

Keys: `method.KEY`, `training.KEY`, `lora.KEY`.
"""


def resolve(label: str, common: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The arguments `method`, `training` and `lora` of a run.

    Args:
        label: one of `LABELS`.
        common: dotted keys of the suite; those of a method hold only where the method has such a setting.
        changes: dotted keys that win over the label's, and hold for a method as `common` does.

    Raises:
        InputError: for an unknown label, or a method or setting that this version does not have.
    """
    if label not in LABELS:
        raise InputError(f"--methods: there is no {label!r}; {nearest(label, LABELS)}")
    own = LABELS[label]
    name = own["method.name"]
    known = settings_of(name)
    given = {key: value for key, value in {**common, **changes}.items() if _fits(key, known)}
    merged = {**given, **own, **{key: value for key, value in given.items() if key in changes}}
    parts: dict[str, dict[str, Any]] = {"method": {}, "training": {}, "lora": {}}
    for key, value in merged.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    parts["method"] = make_method(parts["method"]).settings()
    return {**parts, "lora": parts["lora"] or None}


def check_changes(changes: dict[str, Any], labels: list[str]) -> None:
    """Raises InputError for a key that no chosen method has, or that belongs to no part of a run."""
    known = {key for label in labels for key in settings_of(LABELS[label]["method.name"])}
    for key in changes:
        part, _, rest = key.partition(".")
        if part not in ("method", "training", "lora", "suite") or not rest:
            raise InputError(f"--set {key}: a key begins with method., training., lora. or suite.")
        if part == "method" and rest not in known:
            raise InputError(f"--set {key}: none of the chosen methods has it; {nearest(rest, sorted(known))}")


def settings_of(name: str) -> set[str]:
    """The settings of a method. Raises InputError where this version has no such method."""
    if name not in METHODS:
        raise InputError(f"--methods: this version has no method {name!r}; it has {', '.join(METHODS)}")
    return {item.name for item in fields(METHODS[name]) if item.init}


def _fits(key: str, known: set[str]) -> bool:
    part, _, rest = key.partition(".")
    return part != "method" or rest in known
