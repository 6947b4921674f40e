"""run.json as it is read: the keys that are relied on have their types, and the file is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from seekr.errors import InputError, reason
from seekr.runs.log import RELEARN, read_whole
from seekr.runs.manifest import record_faults


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class _Task(_Part):
    name: str
    learn: bool = True


class _Method(_Part):
    name: str


class _Config(_Part):
    model: str
    tasks: list[_Task] = Field(min_length=1)
    method: _Method
    training: dict[str, Any]
    cells: str = ""
    encrypt: bool = False


class _Identity(_Part):
    seed: NonNegativeInt
    method: _Method


class _Changed(_Part):
    after_stages: NonNegativeInt
    settings: dict[str, list[Any]]


class _Record(_Part):
    config: _Config
    identity: _Identity
    versions: dict[str, str]
    model_fingerprint: str
    max_length: PositiveInt
    clock: str = ""
    source: str | None = Field(default=None, alias="from")
    changed: list[_Changed] = []
    unverified: list[str] = []
    stages: list[Annotated[str, Field(pattern=r"^\d{2,}-[^/]{1,252}$")]] = []
    encrypted_after: NonNegativeInt | None = None


def read_shape(path: Path) -> dict[str, Any]:
    """run.json, whether or not it is what was written. Raises InputError where it cannot be read, or lacks a key."""
    content = read_whole(path, RELEARN)
    try:
        _Record.model_validate(content)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{path}: not the record of a run; {key}: {reason(error)}; {RELEARN}") from None
    return dict(content)


def read_record(run: Path) -> dict[str, Any] | None:
    """The same, as it was written, where there is one. Raises InputError."""
    path = run / "run.json"
    if not path.exists():
        return None
    record = read_shape(path)
    check_record(record, path)
    return record


def check_record(record: dict[str, Any], path: Path) -> None:
    """run.json is relied on as it was written, or not at all. Raises InputError."""
    for fault in record_faults(record, path):
        raise InputError(str(fault))
