"""Two processes of a launch, joined by gloo, that run a test file's own `work`; and a port for any launch."""

from __future__ import annotations

import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from preloaded import Program, ended

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


def run_two(file: str, *words: Path) -> None:
    """Runs `file` with these words in two processes, and fails where one of them does."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": os.pathsep.join(sys.path), "ACCELERATE_USE_CPU": "true"}
    processes = [
        Program([file, *map(str, words)], os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    found = ended(processes, timeout=240)
    assert [status for status, _ in found] == [0, 0], found


def results_of(file: str, folder: Path) -> list[Any]:
    """What each of the two saved as `RANK.pt` in the folder, running `file` with it as the only argument."""
    run_two(file, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
