"""Tokens, keys and passwords are no settings: every setting is written into a run's folder, its page and its card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from seekr.errors import InputError

_KEYS = re.compile(
    r"(?:^|_)(?:(?:hub|hf|auth|access|api|bearer|refresh|session|private|wandb|github)_?(?:token|key)"
    r"|api_?key|passw(?:or)?d|secret(?:_.*)?|credentials?)$|^token$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16})\b"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
"""Tokens of Hugging Face, OpenAI and its like, GitHub and AWS; a password within an address."""


def check_secrets(raw: Any, where: str) -> None:
    """Raises InputError where a key or a value looks like a secret; the value is not repeated. `where` begins it."""
    for key, what in _secrets(raw, ""):
        raise InputError(
            f"{where}: {key} {what}, and settings are written into the run's folder: remove it, and set it in the "
            "environment, where its library looks for it (HF_TOKEN is Hugging Face's)"
        )


def _secrets(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _secrets(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from _secrets(below, f"{key}.{place}")
    elif isinstance(value, str) and _VALUES.search(value):
        yield key, "holds a token or a password"
    elif value not in (None, False, "") and not isinstance(value, bool) and _KEYS.search(key.rpartition(".")[2]):
        yield key, "is a token, a key or a password by its name"
