"""A port of this machine that nothing listens on, for a launch of several processes."""

from __future__ import annotations

import random
import socket

_PORTS = range(20_000, 30_000)
"""Below those that the system hands out itself: between choosing one and using it nobody else is given it."""


def free_port() -> int:
    """Chosen by the system's randomness, so that two test processes at work do not choose the same."""
    choose = random.SystemRandom()
    while True:
        port = choose.choice(_PORTS)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
