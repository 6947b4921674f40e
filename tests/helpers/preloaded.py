"""Programs in processes that are forked from one that has imported the libraries: seconds less for each of them.

The libraries alone are imported before; seekr itself is by each program, as when it is started from a shell.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["torch", "transformers.trainer", "transformers.models.llama", "peft", "datasets"])


class Program:
    """`python PROGRAM...`, with `-m MODULE` or a file first, in an environment of its own.

    Args:
        words: as they follow `python` in a shell.
        environment: all variables that it has.
        folder: where it is started; None = here.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
        descriptor, said = tempfile.mkstemp(suffix=".stderr")
        os.close(descriptor)
        self._said = Path(said)
        self._process = _FORKED.Process(target=_run, args=(list(words), dict(environment), folder, said))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()

    def end(self, timeout: float) -> tuple[int, str]:
        """Exit status and stderr, once it has ended; raises TimeoutError where it does not in so many seconds."""
        self._process.join(timeout)
        status, text = self.poll(), self._said.read_text()
        if status is None:
            raise TimeoutError(f"not ended after {timeout} seconds: {text}")
        self._said.unlink()
        return status, text


def ended(programs: Sequence[Program], timeout: float = 300) -> list[tuple[int, str]]:
    """Exit status and stderr of each; where one does not end, none is left."""
    try:
        return [program.end(timeout) for program in programs]
    finally:
        for program in programs:  # those that a hung one left waiting
            program.kill()


def _run(words: list[str], environment: dict[str, str], folder: Path | None, said: str) -> None:
    nowhere, stderr = os.open(os.devnull, os.O_RDWR), os.open(said, os.O_WRONLY)
    for standard, descriptor in enumerate((nowhere, nowhere, stderr)):
        os.dup2(descriptor, standard)
    os.environ.clear()
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    gc.freeze()  # loading a model and training collect garbage, which takes its time among all that is imported
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the library of threads has read its own before
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process ends without
