"""What the command `seekr` exits with."""

from __future__ import annotations

DONE, FAILED, WRONG_INPUT, CHECK_FAILED = 0, 1, 2, 3
