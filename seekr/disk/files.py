"""Files that are whole whenever they are there, on the disk once it was said so, and known by their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from seekr.disk.full import naming
from seekr.disk.regular import OddFile, open_regular, read_bytes
from seekr.errors import InputError, RunError

_NESTED = (dict, list, tuple)
STDOUT = Path("-")
"""What a file is called that is stdout."""


_OF_A_RUN = {
    "run.json", "scores.json", "general.json", "graft.json", "stages", "predictions", "working", "logs", "model",
    ".lock",
}  # fmt: skip
"""What lies in a run's folder."""

PRIVATE = 0o700
"""The mode of a folder that holds people's texts, before the umask takes from it: its owner's alone."""


def user_path(name: str | Path) -> Path:
    """A path as a person wrote it, with its `~` expanded. Raises InputError where no file can be called so."""
    shown = f"{str(name)[:60]!r}{'…' if len(str(name)) > 60 else ''}"
    try:
        path = Path(name).expanduser()
        bad = b"\0" in os.fsencode(path) or any(len(os.fsencode(part)) > 255 for part in path.parts)
    except (RuntimeError, UnicodeError):  # another person's home that is not there; half of a character
        bad = True
    if bad or len(os.fsencode(path)) > 4000:
        raise InputError(f"{shown}: no file or folder can have this name; write another one")
    return path


def check_no_part_of_a_run(path: Path, name: str) -> None:
    """Raises InputError where what is written for a person would take the place of what a run consists of, `name` being
    its option."""
    place = path.resolve()
    for run in runs_around(place):
        if place.relative_to(run).parts[0] in _OF_A_RUN:
            raise InputError(f"{name}: {path} is a part of the run in {run}, which needs it; give another place")


def runs_around(place: Path) -> list[Path]:
    """The runs in whose folders a place lies, the nearest first."""
    above = place.resolve().parents
    return [folder for folder in above if (folder / "run.json").is_file() and (folder / "stages").is_dir()]


def check_writable(path: Path | None, name: str) -> None:
    """Raises InputError where a file that is to be written once all is done could not be, or would take the place of
    a part of a run; `name` is its option."""
    if path is not None:
        check_no_part_of_a_run(path, name)
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InputError(f"{name}: {path} cannot be written: its folder is missing, or it is a folder itself")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file; a reader, or a crash, sees the old content or the new one.

    On a disk that is full nothing of it is left. Raises InputError where a folder is in the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, where a file should be; remove it")
    make_room(partial)
    with naming(path), partial.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    partial.replace(path)
    sync(path.parent)


def make_room(place: Path) -> None:
    """Takes away what a killed process, or somebody, left under the name that a file has until it is whole.

    A link goes, and what it leads to stays. Raises InputError where it is a folder, which seekr has not made.
    """
    check_room(place)
    place.unlink(missing_ok=True)


def check_room(place: Path) -> None:
    """Raises InputError where `make_room` would."""
    if place.is_dir() and not place.is_symlink():
        raise InputError(f"{place}: is a folder, and seekr writes a file under this name; remove it")


def clear_folder(place: Path) -> None:
    """The same of the name that a folder has until it is whole, or while it is removed: a folder there is seekr's."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        place.unlink()


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file atomically."""
    write_atomically(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as files and stdout have it: indented by two, lists of numbers and texts in a line."""
    return _json_text(content, "\n") + "\n"


def _json_text(value: Any, end: str) -> str:
    """The same of a part whose last bracket follows upon `end`, a line break and what it is indented by."""
    dump = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    inside = list(value.values() if isinstance(value, Mapping) else value) if isinstance(value, _NESTED) else []
    deep = any(isinstance(one, _NESTED) for one in inside)
    if not inside or not (deep or isinstance(value, Mapping)):
        return dump(value)
    comma = f",{end}  "
    if not deep:  # whole, by json's own encoder: one by one a matrix of 200 tasks took a tenth of a second
        return f"{{{end}  {dump(value, separators=(comma, ': '))[1:-1]}{end}}}"
    parts = [_json_text(one, f"{end}  ") for one in inside]
    if not isinstance(value, Mapping):
        return f"[{end}  {comma.join(parts)}{end}]"
    names = [dump({key: 0})[1:-4] for key in value]
    return f"{{{end}  {comma.join(f'{name}: {part}' for name, part in zip(names, parts, strict=True))}{end}}}"


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError where it is broken, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """Reads a JSON file that a run has written. Raises RunError where it is broken or missing, OddFile where it is no
    file."""
    try:
        return parse_json(read_bytes(path).decode())
    except OddFile:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def flush(folder: Path) -> None:
    """Sees to it that every file and folder below `folder` is on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Sees to it that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # of a FIFO it would wait
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


SMALL = 1 << 20
"""Bytes of a file up to which its hash is looked at where sizes alone are else."""
_DIGESTS: dict[tuple[int, ...], str] = {}
Listing = dict[str, dict[str, Any]]
"""Path below a folder → {"bytes": size, "sha256": in hexadecimal}."""


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal; a process reads a file once for it, unless it was changed or replaced since."""
    about = path.stat()
    known = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
    if known not in _DIGESTS:
        with open_regular(path) as stream:
            _DIGESTS[known] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _DIGESTS[known]


def with_own_hash(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a JSON file that says by its key `sha256` what all else of it was."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    as_read = json.loads(json.dumps(content))  # keys that are numbers are texts then, and sort as such
    return content | {"sha256": hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()}


def has_own_hash(content: Mapping[str, Any]) -> bool:
    """Whether such a content is what was written; one without the key, as earlier versions wrote, may be."""
    return "sha256" not in content or with_own_hash(content) == content


def list_files(folder: Path) -> Listing:
    """Every file below a folder, several read at a time."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(file_digest, paths))
    names = (path.relative_to(folder).as_posix() for path in paths)
    sizes = (path.stat().st_size for path in paths)
    each = zip(names, sizes, digests, strict=True)
    return {name: {"bytes": size, "sha256": digest} for name, size, digest in each}


class Fault(NamedTuple):
    """A file or folder that is not as it was written; as a text, the line that says so."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"

    def lies_in(self, *places: Path) -> bool:
        """Whether it is one of these files or folders, or in one of them."""
        return any(self.path.is_relative_to(place) for place in places)


def faults_of_files(folder: Path, listing: Mapping[str, Mapping[str, Any]], *, hashed: bool) -> Iterable[Fault]:
    """Each listed file that is not as it was: missing, of another size, or of other content.

    `hashed`: all are read for it, else those up to 1 MiB alone.
    """
    whole = []
    for name, about in listing.items():
        path = folder / name
        if not path.is_file():
            yield Fault(path, "is no file" if path.exists() else "missing")
        elif path.stat().st_size != about["bytes"]:
            yield Fault(path, f"it has {path.stat().st_size} bytes, and had {about['bytes']} when it was written")
        else:
            whole.append(name)
    with ThreadPoolExecutor() as pool:
        read = [name for name in whole if hashed or listing[name]["bytes"] <= SMALL]
        for name, digest in zip(read, pool.map(lambda name: file_digest(folder / name), read), strict=True):
            if digest != listing[name]["sha256"]:
                yield Fault(folder / name, "its checksum differs from that of the file that was written")
