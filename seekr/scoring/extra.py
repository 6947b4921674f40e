"""The packages of the extra `metrics`, which a few metrics alone need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from seekr.errors import InputError

_NEEDED = {"sari": "sacrebleu", "trace_20minuten": "sacrebleu", "trace_meetingbank": "rouge"}


def extra_module(name: str) -> Any:
    """A module of these packages. Raises InputError, with the words that install it, where it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"the package {package} cannot be imported ({error}); install it (pip install 'seekr-continual[metrics]')"
        ) from None


def check_packages(metric: str | None) -> None:
    """Raises InputError where a metric needs a package that is not installed, before anything is scored by it."""
    if metric in _NEEDED:
        extra_module(_NEEDED[metric])
