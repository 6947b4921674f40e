"""A task in words of a command line: `NAME=PATH,key=value,...`, or `key=value` words alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any

from seekr.config.yaml import parse_yaml
from seekr.data.task import Task
from seekr.errors import InputError
from seekr.other_names import meant

_SPLITS = ("train", "test", "eval")
_BETWEEN_KEYS = re.compile(r",(?![^\[{]*[\]}])")
"""A comma that is in no list or mapping of YAML."""


def parse_task(text: str) -> dict[str, Any]:
    """NAME=PATH[,key=value,...] as a dict of name, path and further keys of a task. Raises InputError."""
    first, *rest = _BETWEEN_KEYS.split(text)
    name, equals, path = first.partition("=")
    if not (name and equals and path):
        raise InputError(f"--task {text!r}: it reads NAME=PATH[,key=value,...]")
    return {"name": name, "path": path, **task_keys(rest, f"--task {text!r}: ")}


def task_keys(words: Iterable[str], where: str = "", *, without: Collection[str] = ()) -> dict[str, Any]:
    """`key=value` words as keys of a task, but for its name and those in `without`. Raises InputError after `where`."""
    valid = {field.name for field in fields(Task)} - {"name", *without}
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{where}{word!r} is no key=value, such as answers=last")
        if key not in valid:
            raise InputError(f"{where}{word!r}: unknown key {key[:60]!r}; {meant(key, valid, 'tasks.N')}")
        found[key] = value if key in _SPLITS or not value else parse_yaml(value, f"{where}{word!r}")
    return found
