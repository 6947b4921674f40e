"""Tokens, keys and passwords are no settings: every setting is written into a run's folder, its page and its card."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from seekr.errors import SECRETS, InputError

_KEYS = re.compile(
    r"(?:^|_)(?:(?:hub|hf|auth|access|api|bearer|refresh|session|private|wandb|github)_?(?:token|key)"
    r"|api_?key|pass(?:wor|phrase|w)?d?|pwd|secret(?:_.*)?|credentials?)$|^token$",
    re.IGNORECASE,
)
_SHORT = 8  # what is shorter is found in any text
_HIDDEN = "(a secret, not shown)"


def check_secrets(raw: Any, where: str) -> None:
    """Raises InputError where a key or a value looks like a secret; the value is not repeated. `where` begins it."""
    for what in secrets_of(raw):
        raise InputError(
            f"{where}: {what}, and settings are written into the run's folder: remove it, and set it in the "
            "environment, where its library looks for it (HF_TOKEN is Hugging Face's)"
        )


def secrets_of(settings: Any) -> Iterator[str]:
    """The keys that are a secret by their name, their value, or the environment's own secrets, and why."""
    named = [value for name, value in os.environ.items() if _KEYS.search(name) and len(value) >= _SHORT]
    own = [value for value in named if not os.path.lexists(value)]  # $PWD, and files that hold a secret
    for key, value in _scalars(settings, ""):
        shown = SECRETS.sub("(…)", key)
        if _is_secret(key, value):
            yield f"{shown} is a token, a key or a password by its name"
        elif SECRETS.search(str(value)) or shown != key:
            yield f"{shown} holds a token or a password"
        elif any(secret in str(value) for secret in own):
            yield f"{shown} holds what the environment has as a secret"


def without_secrets(value: Any, key: str = "") -> Any:
    """The same settings, with what looks like a secret replaced by words."""
    if isinstance(value, dict):
        return {SECRETS.sub("(…)", str(name)): without_secrets(below, str(name)) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(below, key) for below in value]
    return _HIDDEN if _is_secret(key, value) or SECRETS.search(str(value)) else value


def _is_secret(key: str, value: Any) -> bool:
    given = value not in (None, "") and not isinstance(value, bool)
    return given and bool(_KEYS.search(key.rpartition(".")[2]))


def _scalars(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _scalars(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, below in enumerate(value):
            yield from _scalars(below, f"{key}.{place}")
    else:
        yield key, value
