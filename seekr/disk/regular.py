"""The one way in which a file of a run is opened to be read: a file, and no FIFO that keeps whoever opens it waiting.

What a link leads to is read, where that is a file. What the user names (rows, a key) may be a FIFO, and is opened
elsewhere.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from seekr.errors import InputError

LARGEST = 1 << 31
"""Bytes of a text, most of them answers to test rows, that are taken into memory at once."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NOT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class OddFile(InputError, OSError):
    """Something else stands where a file should be: an OSError too, to whoever reads a file that cannot be read."""


def regular(path: Path) -> Path:
    """A file that a library is to open by its name. Raises OddFile where it is none, OSError where it is not there."""
    _check(path, path.stat())
    return path


def open_regular(path: Path) -> BufferedReader:
    """A file, open to be read. Raises OddFile where it is none, OSError where it is not there."""
    return open(regular(path), "rb", opener=_open)


def read_bytes(path: Path) -> bytes:
    """What is in a file. Raises OddFile where it is none, or too large to be one, OSError where it cannot be read."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise OddFile(f"{path}: has {size} bytes, and no text that is read here is that large; look what it is")
        return file.read()


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | _NOT_WAITING)
    try:
        _check(Path(path), os.fstat(descriptor))  # it may be another one by now
    except OddFile:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        kind = _KINDS.get(stat.S_IFMT(about.st_mode), "no file")
        raise OddFile(f"{path}: is {kind}, where a file should be; remove it")
