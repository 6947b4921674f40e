"""YAML as people write it: `1e-5` is a number, and a key that is given twice an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seekr.errors import InputError, said_by

MOST_VALUES, DEEPEST, LARGEST = 100_000, 40, 1 << 20
"""How many values a text may hold and how deep they may be nested, its aliases written out; bytes of a file."""


class _Loader(yaml.SafeLoader):
    """YAML with two differences: `1e-5` is a number, as in YAML 1.2, and a key that is given twice is an error."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # what it brings gives way to keys that are given
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str | int):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values in a node and how deep they are nested, aliases written out: nobody who walks them gets lost.

    `known`: of nodes, each of which is looked at once. Raises MarkedYAMLError where it is too much.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = 0, DEEPEST  # for an alias of it within itself, which has no end
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    found = [_measure(part, known) for part in parts]
    values, depth = 1 + sum(count for count, _ in found), 1 + max((deep for _, deep in found), default=0)
    if values > MOST_VALUES or depth > DEEPEST:
        what = f"more than {MOST_VALUES:,} values" if values > MOST_VALUES else f"nested more than {DEEPEST} deep"
        raise yaml.composer.ComposerError(None, None, f"{what}, aliases written out", node.start_mark)
    known[id(node)] = values, depth
    return known[id(node)]


def parse_yaml(text: str, where: str) -> Any:
    """Reads YAML; raises InputError with `where` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date of month 13, a number of thousands of digits
        raise InputError(f"{where}: not valid YAML: {said_by(error)}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: nested too deeply") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: more than {LARGEST >> 20} MiB; a configuration names its rows by their files")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise InputError(f"{path}: the file must hold keys and values, such as `model: FOLDER`")
    return raw
