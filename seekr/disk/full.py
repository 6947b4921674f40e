"""A full disk in one line: what Python and libraries say of a file that cannot be written to its end names no place."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

UNWRITTEN = "a file could not be written to its end (is the disk full?)"


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Gives an OSError that names no file the name of a file or folder."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(place)) from error
        raise


@contextmanager
def written_to(place: Path) -> Iterator[None]:
    """The same of what libraries say of it: torch.save and tokenizers have no class of their own for it."""
    try:
        with naming(place):
            yield
    except OSError:
        raise
    except Exception as error:
        if not (isinstance(error, SafetensorError) or is_unwritten(error)):
            raise
        raise OSError(f"{place}: {UNWRITTEN}: {error}") from error


def is_unwritten(error: Exception) -> bool:
    """Whether it is of torch.save or tokenizers."""
    called = traceback.extract_tb(error.__traceback__)
    saving = any(one.name == "save" and Path(one.filename).match("torch/serialization.py") for one in called)
    return saving or "(os error " in str(error)
