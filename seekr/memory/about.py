"""`memory.json`: what a memory holds and what it belongs to, read and checked before anything else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from seekr.disk.files import parse_json
from seekr.disk.regular import OddFile
from seekr.disk.sealed import read_text
from seekr.errors import InputError, reason

VERSION = 2

_Layer = Annotated[str, Field(pattern=r"^\d{1,6}$")]
_FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]{0,99}$")]  # of the memory's own folder
_Forms = dict[_Layer, str]


class _Shard(TypedDict):
    file: _FileName
    samples: tuple[NonNegativeInt, NonNegativeInt]
    sha256: str


class _LayerAbout(TypedDict):
    size: NonNegativeInt
    geometry: dict[str, Any]


@with_config(ConfigDict(extra="allow"))
class _Facts(TypedDict):
    attention_floor: NotRequired[Annotated[float, Field(strict=True)]]
    own_answers: NotRequired[Annotated[int, Field(strict=True)]]


@with_config(ConfigDict(extra="allow"))
class _About(TypedDict):
    task: str
    tokenizer: str
    model: str
    heads: dict[_Layer, list[NonNegativeInt]]
    samples: NonNegativeInt
    samples_sha256: str
    answer_tokens: list[NonNegativeInt]
    shards: list[_Shard]
    layers: dict[_Layer, _LayerAbout]
    forms: list[_Forms]
    facts: _Facts


_ABOUT = TypeAdapter(_About)
_MEND = "restore it or learn the task again"


def read_about(folder: Path) -> dict[str, Any]:
    """What `memory.json` says. Raises InputError where it is missing, broken or of another version."""
    path = folder / "memory.json"
    if not path.exists():
        raise InputError(f"{path}: not found; the folder holds no memory")
    try:
        about = parse_json(read_text(path))
    except OddFile as error:
        raise InputError(f"{error}; {_MEND}") from None
    except (OSError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}{where}: broken JSON ({error}); {_MEND}") from None
    version = about.get("version") if isinstance(about, dict) else None
    if version != VERSION:
        raise InputError(
            f"{path}: version {version!r} of the memory format, and this seekr reads {VERSION}; "
            "use the seekr that wrote it, or learn the task again"
        )
    try:
        _ABOUT.validate_python(about)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{path}: {where}: {reason(error)}; {_MEND}") from None
    if not len(about["forms"]) == len(about["answer_tokens"]) == about["samples"]:
        raise InputError(f"{path}: forms and answer_tokens are not of {about['samples']} samples; {_MEND}")
    return dict(about)


def check_owner(folder: Path, kind: str, kept: str, expected: str | None) -> None:
    """Raises InputError where a memory belongs to another tokenizer or model; None = not checked."""
    if expected is not None and kept != expected:
        raise InputError(
            f"{folder}: this memory belongs to another {kind} ({kept}, not {expected}); "
            f"use the {kind} that it was made with"
        )
