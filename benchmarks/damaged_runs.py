"""What becomes of a run whose files were damaged: every kind of file × every kind of fault × every command.

    python benchmarks/damaged_runs.py FOLDER --json benchmarks/results/damaged_runs.json

A run of two tasks (and one stopped within its third) on a random model is copied for each fault, and each command is
given for the copy, `learn` last. What is seen is compared with the same command on a whole copy:

    refused     exit status 1, 2 or 3, one line that names the file or its folder
    named       it is done, and the file is named
    same        nothing is said, and nothing is other than it was: output, weights, memory and scores
    SILENT      something is other than it was, and nothing is said
    TRACEBACK   an exception that is no message, or a command that was not done after a minute
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_run import write_configuration

from seekr.cli.main import main as seekr
from seekr.disk import write_json
from seekr.training.interruption import Interruption

MINUTE = 60
LOOKS = ("status", "check", "heads", "memory", "compare", "report", "verify", "evaluate")


class Waits(BaseException):
    """A command waits for something that does not come."""


def end(*_: Any) -> None:
    raise Waits


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other(path: Path) -> None:
    """Another file of its kind: the same name from another stage, or of another run's beginning."""
    twins = [twin for twin in path.parents[1].parent.rglob(path.name) if twin != path and twin.is_file()]
    content = twins[0].read_bytes() if twins else b"{}\n"
    path.write_bytes(content)


def replaced(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


FAULTS: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flip,
    "gone": Path.unlink,
    "directory": lambda path: replaced(path, Path.mkdir),
    "FIFO": lambda path: replaced(path, os.mkfifo),
    "dangling link": lambda path: replaced(path, lambda it: it.symlink_to("nowhere")),
    "other file": other,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs are made; must be new")
    parser.add_argument("--json", type=Path, required=True, help="the rows")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    signal.signal(signal.SIGALRM, end)
    run = make_run(arguments.folder)
    whole = outcomes(run, arguments.folder)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for file in kinds_of_files(run):
        for fault, damage in FAULTS.items():
            seen = outcomes(run, arguments.folder, lambda copy, d=damage, f=file: d(copy / f))
            judgements = {command: judged(seen[command], whole[command], file) for command in seen}
            if judgements["learn"] == "same" and seen["learn"]["left"] != whole["learn"]["left"]:
                judgements["learn"] = "SILENT"
            for command, outcome in judgements.items():
                if outcome.isupper():
                    print(file, fault, command, outcome, seen[command], file=sys.stderr)
            found.setdefault(str(file), {})[fault] = judgements
    each = [outcome for faults in found.values() for commands in faults.values() for outcome in commands.values()]
    write_json(arguments.json, {"counts": dict(Counter(each)), "outcomes": found})
    print(json.dumps(dict(Counter(each))))


def kinds_of_files(run: Path) -> list[Path]:
    """One of each kind: of the newest stage and checkpoint all, of the older stage what is read of it later."""
    files = [path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    checkpoint = max((path for path in run.glob("working/*/checkpoint-*")), key=lambda it: int(it.name[11:]))
    older = ("manifest.json", "model.safetensors", "samples.safetensors", "heads.json")
    return sorted(
        file
        for file in files
        if (file.parts[:2] != ("stages", "00-sort") or file.name in older)
        and (file.parts[0] != "predictions" or file.name == "1-0.jsonl")
        and (file.parts[0] != "working" or run / file.parent == checkpoint or file.name in ("task.json", "log.jsonl"))
    )


def make_run(folder: Path) -> Path:
    """Two tasks that are learned, and a third that was stopped after a checkpoint."""
    config = write_configuration(folder)
    stop_at = stopping_in_the_third_task()
    with stop_at, contextlib.redirect_stderr(io.StringIO()):
        seekr(["learn", str(config)])
    assert sorted(path.name for path in (folder / "run/stages").iterdir()) == ["00-sort", "01-upper"]
    assert list((folder / "run").glob("working/*/checkpoint-*"))
    return folder / "run"


@contextlib.contextmanager
def stopping_in_the_third_task() -> Any:
    """As Ctrl-C after the third step of the third task."""
    asked, tasks = Interruption.on_step_end, []

    def on_step_end(self: Interruption, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tasks.extend([args.output_dir] if args.output_dir not in tasks else [])
        self.signalled = len(tasks) == 3 and state.global_step == 3
        asked(self, args, state, control, **kwargs)

    Interruption.on_step_end = on_step_end  # type: ignore[method-assign]
    try:
        yield
    finally:
        Interruption.on_step_end = asked  # type: ignore[method-assign]


def outcomes(run: Path, folder: Path, damage: Callable[[Path], Any] = lambda _: None) -> dict[str, dict[str, Any]]:
    """Command → exit status (None = a traceback), what was said, and a hash of what stands afterwards."""
    found = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        copy = Path(shutil.copytree(run, Path(place) / "run", symlinks=True))
        damage(copy)
        for command in LOOKS:
            more = ["--output", f"{place}/page.html"] if command == "report" else []
            found[command] = called([command, str(copy), *more], copy)
        config = folder / "config.json"
        found["learn"] = called(["learn", str(config), f"output_dir={copy}"], copy)
    return found


def called(words: list[str], run: Path) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    status: int | str
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.alarm(MINUTE)
        try:
            status = seekr(words)
        except (Exception, Waits) as error:
            status = f"{type(error).__name__}: {error}"
        signal.alarm(0)
    said = [text.getvalue().replace(str(run.parent), "") for text in (out, err)]
    return {"status": status, "out": said[0], "err": said[1], "left": left(run)}


def left(run: Path) -> str:
    """A hash of the weights, memory, logs and scores of a run."""
    paths = [*run.glob("stages/*/model/*.safetensors"), *run.glob("stages/*/memory/*"), run / "scores.json"]
    paths += run.glob("stages/*/log.jsonl")
    contents = [(str(path.relative_to(run)), path.read_bytes()) for path in sorted(paths) if path.is_file()]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def judged(seen: dict[str, Any], whole: dict[str, Any], file: Path) -> str:
    if isinstance(seen["status"], str):
        return "TRACEBACK"
    said = seen["out"] + seen["err"]
    places = {str(file), *map(str, file.parents), *file.parts[1:2], file.name} - {
        "."
    }  # stages/01-upper is 01-upper, too
    named = any(place in said for place in places)
    if seen["status"] != whole["status"]:
        return "refused" if named else "SILENT"
    if named and (seen["out"], seen["err"]) != (whole["out"], whole["err"]):
        return "named"
    return "same" if (seen["out"], seen["err"]) == (whole["out"], whole["err"]) else "SILENT"


if __name__ == "__main__":
    main()
