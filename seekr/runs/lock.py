"""One writer a run: a lock on the file RUN/.lock, which says who holds it and is looked at again before each stage.

The lock is the system's, gone with its process. What the file says shows in addition that a lock was deleted, or that
a process on another machine has it, where a file system does not tell machines of each other's locks.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seekr.disk.regular import read_bytes, regular
from seekr.errors import InputError, RunError, say

FILE = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_FAR = 1 << 30  # on Windows nobody can read the bytes that are locked
_NUMBER = uuid.uuid4()  # containers may share a host name and process numbers
_HELD: dict[Path, int] = {}


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps a second process out of the folder of a run. Raises InputError where one is at work already."""
    path = run / FILE
    try:
        run.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            raise InputError(f"{path}: is a link, and locking writes to it; remove it")
        if path.exists():
            regular(path)
        descriptor = _take(path)
    except InputError:
        raise
    except BlockingIOError:
        by = f" ({_holder(path)})" if _holder(path) else ""
        raise InputError(f"{run}: another process{by} is at work in this folder; wait for it or stop it") from None
    except OSError as error:
        raise InputError(f"output_dir: {run} cannot be written to: {error.strerror}; give another folder") from None
    home = run.resolve()
    _HELD[home] = descriptor
    try:
        yield
    finally:
        os.close(_HELD.pop(home))


def keep_lock(run: Path) -> None:
    """Sees to it that this process still has the lock that it took, if any: one that was deleted is taken again.

    Raises RunError where another process has taken it since.
    """
    path, home = run / FILE, run.resolve()
    if home not in _HELD or _said(path) == _own_words():
        return
    try:
        taken = _take(path, os.O_EXCL)
    except FileExistsError:
        raise RunError(
            f"{path}: another process ({_holder(path) or 'which does not say who it is'}) has taken this folder "
            "meanwhile: the file was deleted, or this file system does not tell machines of each other's locks; this "
            "process stops, and the same command goes on once the other one has ended"
        ) from None
    say(f"{path} was deleted while this process is at work, and is there again")
    os.close(_HELD[home])
    _HELD[home] = taken


def _take(path: Path, flags: int = 0) -> int:
    """The file, open and locked, saying whose it is. Raises BlockingIOError where another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | flags, 0o666)
    try:
        _lock(descriptor, path)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _own_words().encode())
        os.fsync(descriptor)
        if _said(path) != _own_words():
            raise BlockingIOError  # deleted since it was opened: another process is at it, too
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EACCES:  # Windows, and some file systems, say so where another has it
            raise BlockingIOError from None
        if error.errno not in _NO_LOCKS:
            raise
        said = f"this file system has no locks ({error.strerror}); see to it that no second process works here"
        say(f"{path}: {said}")


def _own_words() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, {_NUMBER}"


def _said(path: Path) -> str:
    try:
        return read_bytes(path).decode() if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _holder(path: Path) -> str:
    return _said(path)[:100].partition(",")[0]
