"""Where a command's findings go: to the terminal, and as JSON to the file of `--json`, or to stdout in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekr.disk.files import STDOUT, json_text, write_json
from seekr.errors import hand_over

DONE, FAILED, WRONG_INPUT, CHECK_FAILED = 0, 1, 2, 3
INTERRUPTED = 130  # as a shell says of Ctrl-C: 128 and the number of the signal
"""What the command `seekr` exits with."""


def give(file: Path | None, content: Callable[[], Any], show: Callable[[], None]) -> None:
    """Shows what was found, unless its `content` as JSON goes to stdout; writes that where a `file` is named."""
    if file == STDOUT:
        hand_over(json_text(content()))
        return
    show()
    if file is not None:
        write_json(file, content())
