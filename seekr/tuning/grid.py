"""The grid of a tuning: which keys take which values, and how a candidate is named and said."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from seekr.config.yaml import parse_yaml
from seekr.errors import InputError

Settings = dict[str, Any]
"""A value for each key of the grid."""

_FIXED = {
    "seed": "seeds=[0,1,2] learns every candidate with each",
    "output_dir": "give --output-dir DIR",
    "cells": "every candidate is scored alike",
    "vllm": "every candidate is scored alike; give it in the file, or as vllm={}",
    "keep_stages": "weights of candidates are not kept but for the newest stage",
    "tasks": "only train_limit and num_train_epochs of tasks can be tried; the rest says what is scored",
}
_LISTS = {"seeds", "tasks.only"}  # by themselves, so that they hold for all candidates
_TRIED_OF_TASKS = re.compile(r"tasks\.(\d+\.)?(train_limit|num_train_epochs)")
_LONGEST_NAME = 120


def parse_grid(words: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """The keys with a list of values to try, and the words that hold for all candidates. Raises InputError.

    `seeds` and `tasks.only` are lists by themselves, and no keys of the grid.
    """
    grid: dict[str, list[Any]] = {}
    fixed = []
    for word in words:
        key, equals, text = word.partition("=")
        values = parse_yaml(text, repr(word)) if equals else None
        if not isinstance(values, list) or key in _LISTS:
            fixed.append(word)
            continue
        top = key.partition(".")[0]
        if top in _FIXED and not _TRIED_OF_TASKS.fullmatch(key):
            raise InputError(f"{word!r}: {key} is no setting to choose: {_FIXED[top]}")
        if key in grid:
            raise InputError(f"{word!r}: {key} is given twice; put all its values into one list")
        if not values:
            raise InputError(f"{word!r}: the list of values is empty")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise InputError(f"{word!r}: a value comes twice")
        grid[key] = values
    if not grid:
        raise InputError("which values? give at least one key a list, such as 'method.attention_weight=[10,100,1000]'")
    return grid, fixed


def points(grid: dict[str, list[Any]]) -> Iterator[Settings]:
    """Every point of the grid, the last key changing fastest."""
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def words_of(settings: Settings) -> list[str]:
    """The overrides that make a configuration the candidate's."""
    return [f"{key}={text_of(value)}" for key, value in settings.items()]


def short_keys(settings: Settings) -> list[str]:
    """The last part of each key where that tells it apart, else all of it."""
    lasts = [key.rpartition(".")[2] for key in settings]
    return [last if lasts.count(last) == 1 else key for key, last in zip(settings, lasts, strict=True)]


def folder_name(settings: Settings) -> str:
    """A name for a candidate that reads as its settings, with no character that a file system could dislike."""
    texts = [text_of(value) for value in settings.values()]
    safe = [re.sub(r"[^\w.+-]+", "-", text) for text in texts]
    name = ",".join(f"{key}={value}" for key, value in zip(short_keys(settings), safe, strict=True))
    if safe == texts and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{zlib.crc32(json.dumps(settings).encode()):08x}"


def text_of(value: Any) -> str:
    """A value as a word of the command line has it: `key=` before it gives the value back."""
    if isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value) and parse_yaml(value, "") == value:
        return value
    return json.dumps(value, ensure_ascii=False)
