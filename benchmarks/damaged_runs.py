"""What becomes of a run whose files were damaged: every kind of run × file × fault × command.

    python benchmarks/damaged_runs.py FOLDER --json benchmarks/results/damaged_runs.json
    python benchmarks/damaged_runs.py FOLDER --json FILE --kinds plain LoRA  # in parts; FILE is added to

A run of two tasks (and one stopped within its third, or finished) on a random model is copied for each fault, and each
command is given for the copy; one that writes the run for a copy of its own. What is seen and left is compared with
the same command on a whole copy:

    refused     exit status 1, 2 or 3, one line that names the file, its folder, or what does not go with it any more
    named       it is done, and the file is named on stderr
    same        nothing is said of it, and nothing else is other than it was: output, and every file that is left
    unknown     something is other, nothing is said, and nobody can know: other content in a run of a version that kept
                no hashes (`learn` and `verify` call it unverified), files of a model there that it may do without, a
                study (graft.json, general.json) that is gone, weights of an older stage, which may be gone by
                `keep_stages`, checkpoints that are gone, a whole seed of several
    SILENT      the same of all else
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
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damaged_kinds import KINDS, OLDEST, Kind, configuration, kinds_of_files, make_run

from seekr.cli.main import main as seekr
from seekr.disk.files import write_json

MINUTE = 60
LOOKS = {
    "status": "status RUN",
    "check": "check RUN",
    "heads": "heads RUN",
    "memory": "memory RUN",
    "memory --search": "memory RUN --search a",
    "compare": "compare RUN",
    "report": "report RUN --output PLACE/page.html",
    "verify": "verify RUN",
    "export": "export RUN --stage NEWEST --output PLACE/exported",
    "export --merge": "export RUN --stage NEWEST --merge --output PLACE/merged",
    "score": "score RUN --stage NEWEST --task sort=DATA/sort/test.json",
    "chat": "chat RUN --stage NEWEST --max-new-tokens 3",
    "learn --from": "learn --from RUN --task reverse=DATA/reverse --output-dir PLACE/more",
    "learn --dry-run": "learn CONFIG output_dir=RUN --dry-run",
}
WRITES = {
    "graft": "graft RUN",
    "memory --remove": "memory RUN --remove sort/1",
    "evaluate": "evaluate RUN",
    "learn --redo": "learn CONFIG output_dir=RUN --redo NEWEST",
    "learn": "learn CONFIG output_dir=RUN",
}
MENDS = ("learn", "learn --redo")
"""What ends with a run that is whole, or names what is not."""
STUDIES = ("graft.json", "general.json")
"""What is measured besides; nothing that is learned needs it."""
OPTIONAL = ("generation_config.json", "tokenizer_config.json")
"""What a model may do without."""
SAY_SO = ("learn", "verify")
"""What says of a run without manifests that it is unverified."""
UNFINISHED = ("check", "evaluate")
"""What may end with 1 or 3 for a whole run; other commands are given for runs for which they are done."""


class Waits(BaseException):
    """A command waits for something that does not come."""


def end(*_: Any) -> None:
    raise Waits


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other(path: Path) -> None:
    """The file of its name from another stage, or from a run of another seed; where all are the same, its neighbour."""
    place, own = next(parent for parent in path.parents if parent.name == "copies"), path.read_bytes()
    twins = [*sorted((place / "run").rglob(path.name)), *sorted((place.parent / "other").rglob(path.name))]
    twins += sorted(path.parent.glob(f"*{path.suffix}"))
    others = (content for twin in twins if twin.is_file() and (content := twin.read_bytes()) != own)
    path.write_bytes(next(others, b"{}\n"))


def swapped(path: Path) -> None:
    """Changes places with the folder next to it, where there is one, or else with an empty one."""
    twin = next((twin for twin in sorted(path.parent.iterdir()) if twin != path and twin.is_dir()), None)
    aside = path.with_name(".aside")
    path.rename(aside)
    twin.rename(path) if twin else path.mkdir()
    aside.rename(twin or path.with_name(f"other-{path.name}"))


def replaced(path: Path, make: Callable[[Path], Any]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


Fault = Callable[[Path], Any]
FAULTS: dict[str, Fault] = {
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
FAULTS_OF_FOLDERS: dict[str, Fault] = {
    "empty": lambda path: replaced(path, Path.mkdir),
    "gone": shutil.rmtree,
    "file": lambda path: replaced(path, Path.touch),
    "FIFO": FAULTS["FIFO"],
    "dangling link": FAULTS["dangling link"],
    "swapped": swapped,
}


def is_unknowable(file: Path, fault: str, kind: Kind) -> bool:
    if file.name in STUDIES or str(file) == f"{OLDEST}/model":
        return fault == "gone"
    if str(file) == "seed-1" or (file.parts[0] == "working" and kind.folders):
        return fault in ("gone", "empty", "swapped")  # swapped: figures say of which seed they are
    return not kind.hashed and (fault in ("one bit", "other file") or (fault == "gone" and file.name in OPTIONAL))


@dataclass(frozen=True)
class Seen:
    """Exit status (a text = a traceback), what was said, and path → hash of what stands afterwards."""

    status: int | str
    out: str
    err: str
    left: dict[str, str]

    @property
    def said(self) -> tuple[str, str]:
        return self.out, self.err


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs are made; those that are there are used")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of runs; default: all")
    parser.add_argument("--json", type=Path, required=True, help="the outcomes, added to those that are there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, end)
    os.environ["SEEKR_KEY"] = "5" * 64
    os.urandom = bytes  # nonces are all the same, so that what is encrypted twice can be compared
    content = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"seconds": {}, "outcomes": {}}
    for name in arguments.kinds:
        place = Place(arguments.folder / name.replace(" ", "-").replace(",", ""), KINDS[name])
        found = content["outcomes"].setdefault(name, {})
        for file in place.files:
            if str(file) in found:
                continue
            before = time.process_time()
            outcomes = {fault: place.judged(file, fault, damage) for fault, damage in place.faults.items()}
            found[str(file)] = {"commands": list(place.whole), **outcomes}
            content["seconds"][name] = content["seconds"].get(name, 0.0) + time.process_time() - before
            write_json(arguments.json, content)
    each = [one for files in content["outcomes"].values() for faults in files.values() for one in counted(faults)]
    print(json.dumps(dict(Counter(each))))


def counted(faults: dict[str, list[str]]) -> list[str]:
    return [outcome for fault, outcomes in faults.items() if fault != "commands" for outcome in outcomes]


class Place:
    """A kind of run, and the place where its copies are damaged: always the same one, since paths are shown."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder, self.kind, self.copies = folder.absolute(), kind, folder.absolute() / "copies"
        self.run = make_run(self.folder, kind)
        self.files = kinds_of_files(self.run, kind)
        self.faults = FAULTS_OF_FOLDERS if kind.folders else FAULTS
        self.commands = {name: words for name, words in {**LOOKS, **WRITES}.items() if kind.takes(name)}
        whole = self.outcomes(self.commands)
        if self.outcomes(self.commands) != whole:
            raise SystemExit(f"{folder.name}: the same command on the same run does not leave the same twice")
        if not kind.hashed and not all("of a version that kept no hashes" in " ".join(whole[it].said) for it in SAY_SO):
            raise SystemExit(f"{folder.name}: nothing says that it is unverified")
        self.whole = {name: seen for name, seen in whole.items() if seen.status == 0 or name in UNFINISHED}
        self.commands = {name: self.commands[name] for name in self.whole}

    def judged(self, file: Path, fault: str, damage: Fault) -> list[str]:
        found = []
        for command, seen in self.outcomes(self.commands, lambda run: damage(run / file)).items():
            strictly = command in MENDS and file.name not in STUDIES and self.kind.hashed
            outcome = judged(seen, self.whole[command], file, *self.damaged, strictly=strictly)
            if outcome == "SILENT" and is_unknowable(file, fault, self.kind):
                outcome = "unknown"
            if outcome.isupper():
                print(file, fault, command, outcome, seen.status, *seen.said, sep=" | ", file=sys.stderr)
            found.append(outcome)
        return found

    def outcomes(self, commands: dict[str, str], damage: Fault = lambda _: None) -> dict[str, Seen]:
        found = {}
        for place, (name, words) in enumerate(commands.items()):
            if place == 0 or name in WRITES:
                shutil.rmtree(self.copies, ignore_errors=True)
                copy = Path(shutil.copytree(self.run, self.copies / "run", symlinks=True))
                whole = contents(self.copies)
                damage(copy)
                before = contents(self.copies)
                damaged = {path for path in whole.keys() | before.keys() if whole.get(path) != before.get(path)}
                self.damaged = damaged, before
            found[name] = self.called(words)
            for path in self.copies.iterdir():
                if path.name != "run":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    def called(self, text: str) -> Seen:
        places = {"RUN": self.copies / "run", "PLACE": self.copies, "DATA": self.folder / "data"}
        places["NEWEST"] = "add" if self.kind.finished else "upper"
        words = [part for word in text.split() for part in self.spelled(word, places)]
        out, err = io.StringIO(), io.StringIO()
        status: int | str
        sys.stdin = io.StringIO("cab\n")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            signal.alarm(MINUTE)
            try:
                status = seekr(words)
            except (Exception, Waits) as error:
                status = f"{type(error).__name__}: {error}"
            signal.alarm(0)
        return Seen(status, out.getvalue(), err.getvalue(), contents(self.copies))

    def spelled(self, word: str, places: dict[str, Any]) -> list[str]:
        if word == "CONFIG":
            return configuration(self.folder, self.kind)
        for name, path in places.items():
            word = word.replace(name, str(path))
        return [word]


def contents(place: Path) -> dict[str, str]:
    """Path → hash of each file there, but for the lock; what else is no folder by its kind."""
    found = {}
    for path in place.rglob("*"):
        if path.name == ".lock" or (path.is_dir() and not path.is_symlink()):
            continue
        is_file = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(place))] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if is_file else oct(path.lstat().st_mode)
        )
    return found


def judged(seen: Seen, whole: Seen, file: Path, damaged: set[str], before: dict[str, str], *, strictly: bool) -> str:
    """What became of a command.

    Args:
        damaged: the paths that were damaged, of all that stood there `before` the command.
        strictly: the damage may not stay as it is and unnamed.
    """
    if isinstance(seen.status, str):
        return "TRACEBACK"
    places = {str(file), *map(str, file.parents), *file.parts[1:2], file.name} - {"."}  # 01-upper is stages/01-upper
    if seen.status != whole.status:
        lines = seen.err.split("seekr: error: ")[1:]
        text = seen.out if seen.status == 3 else seen.err
        clear = any(place in text for place in places) or "copies/run" in "".join(lines)
        return "refused" if clear and len(lines) == (seen.status != 3) else "SILENT"
    if seen.err != whole.err and any(place in seen.err for place in places):
        return "named"
    other = {path for path in seen.left.keys() | whole.left.keys() if seen.left.get(path) != whole.left.get(path)}
    if not other and seen.out == whole.out:
        return "same"  # mended, and what was measured for it is said
    untouched = {path for path in damaged if seen.left.get(path) == before.get(path)}
    return "same" if seen.said == whole.said and other <= (set() if strictly else untouched) else "SILENT"


if __name__ == "__main__":
    main()
