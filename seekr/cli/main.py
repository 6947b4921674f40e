"""The command `seekr`: reads the command line and hands over. Exit status: 0 done, 1 the run failed, 2 wrong input,
3 a check did not hold, 130 it was stopped from outside."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seekr.cli import environment, learning, looking, tasks, using
from seekr.cli.library_warnings import leave_out_advice
from seekr.cli.output import DONE, FAILED, INTERRUPTED, WRONG_INPUT
from seekr.cli.parser import make_parser, parse
from seekr.config.launch import launch_file
from seekr.disk.files import check_writable
from seekr.disk.full import UNWRITTEN, is_unwritten
from seekr.distributed.processes import disconnect, is_main
from seekr.errors import InputError, RunError, say, show_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; what went wrong is one line on stderr."""
    try:
        if "_ARGCOMPLETE" in os.environ:  # set by a shell that asks what may come next
            import argcomplete

            argcomplete.autocomplete(make_parser())
        parsed = parse(arguments)
        leave_out_advice()
        check_writable(getattr(parsed, "json", None), "--json")
        if parsed.command != "chat":  # where Ctrl-C stops an answer and no more
            _end_politely()
        if parsed.command in _SHOW_RUNS:
            _name_faults([parsed.run] if "run" in parsed else parsed.runs)
        with _beginning(parsed.command):
            status = int(_COMMANDS[parsed.command](parsed) or DONE)
        if parsed.command == "export":  # a fault that stops it is its error
            _name_faults([parsed.run])
        disconnect()
        return status
    except InputError as error:
        return _give_up(str(error), WRONG_INPUT, silently=_reported_by_another(error))
    except RunError as error:
        return _give_up(str(error), FAILED, silently=_reported_by_another(error))
    except KeyboardInterrupt as interrupt:
        return _give_up(str(interrupt) or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of `seekr heads RUN | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except shutil.Error as error:  # what went wrong with each file of a folder that was copied
        _, place, why = error.args[0][0]
        return _give_up(f"{place}: cannot be written: {why}", FAILED)
    except (OSError, SafetensorError) as error:  # a full disk, a folder that cannot be written to
        if isinstance(error, OSError) and _is_of_stdout(error):
            return _give_up(f"stdout: cannot be written: {error.strerror}", FAILED)
        return _give_up(f"{type(error).__name__}: {error}", FAILED)
    except Exception as error:
        if not is_unwritten(error):
            raise
        return _give_up(f"{UNWRITTEN}: {error}", FAILED)


def _beginning(command: str) -> AbstractContextManager[None]:
    """Says at once what a command that learns or answers waits for: the libraries take seconds to load."""
    if command not in _NEED_MODELS or "transformers" in sys.modules:
        return nullcontext()
    from seekr.progress import beginning

    return beginning("loading torch and transformers")


def _end_politely() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, with a line of what was kept; training has its own way."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
                signal.signal(getattr(signal, name), signal.default_int_handler)


def _name_faults(folders: Sequence[Path]) -> None:
    """What is there is shown, and what is not as it was written is named: a line on stderr for each fault."""
    from seekr.runs.folder import find_runs, left_out
    from seekr.runs.verify import quick_faults

    for folder in folders:
        try:
            found = find_runs([folder])
        except InputError:
            continue  # the command itself says so
        for line in left_out([folder]):
            say(line)
        for run in found:
            for fault in quick_faults(run):
                say(str(fault))


def _give_up(message: str, status: int, *, silently: bool = False) -> int:
    if not silently:
        say(f"error: {message}")
    return status


def _is_of_stdout(error: OSError) -> bool:
    """Whether it was raised where texts and tables are printed, which names no file."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return error.filename is None and (last.match("seekr/errors.py") or last.match("rich/console.py"))


def _reported_by_another(error: InputError | RunError) -> bool:
    from seekr.distributed.agreement import CommonInputError, CommonRunError

    return isinstance(error, CommonInputError | CommonRunError) and not is_main()


def _bench(arguments: argparse.Namespace) -> None:
    os.environ.setdefault("OMP_PROC_BIND", "true")  # a thread stays on its core; read when torch is imported
    from seekr.bench import run_bench

    run_bench(arguments.json)


_NEED_MODELS = ("bench", "demo", "evaluate", "export", "graft", "learn", "plan", "score", "tune")
_SHOW_RUNS = ("check", "compare", "heads", "memory", "report", "status")
_COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "bench": _bench,
    "chat": using.chat,
    "check": looking.check,
    "compare": looking.compare,
    "demo": learning.demo,
    "env": environment.show_environment,
    "evaluate": learning.evaluate,
    "export": using.export,
    "graft": looking.graft,
    "heads": looking.heads,
    "launch-config": lambda arguments: show_text(str(launch_file(arguments.name))),
    "learn": learning.learn,
    "memory": looking.memory,
    "plan": learning.plan,
    "report": looking.report,
    "score": using.score,
    "status": looking.status,
    "tasks": tasks.tasks,
    "tune": learning.tune,
    "verify": looking.verify,
}
