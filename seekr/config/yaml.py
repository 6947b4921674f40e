"""YAML as people write it: `1e-5` is a number, and a key that is given twice an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seekr.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML with two differences: `1e-5` is a number, as in YAML 1.2, and a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str | int):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Reads YAML; raises InputError with `where` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date of month 13, a number of thousands of digits
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: nested too deeply") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise InputError(f"{path}: the file must hold keys and values, such as `model: FOLDER`")
    return raw
