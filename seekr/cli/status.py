"""What the command `seekr` exits with."""

from __future__ import annotations

DONE, FAILED, WRONG_INPUT, TOO_MUCH_LOST = 0, 1, 2, 3
