"""Does a run that is killed anywhere, or fills its disk, end with the same bytes as one that never stopped?

    python benchmarks/killed_runs.py FOLDER --kills 200 --json benchmarks/results/killed_runs.json
    unshare -rm python benchmarks/killed_runs.py FOLDER --full-disks 20 --json benchmarks/results/full_disks.json

A round learns three tasks with a checkpoint every step, scores every model on every task, goes on from that run with a
fourth task, exports its model, takes back a kept row of the first and writes a page. `--kills`: every command is killed
(SIGKILL) at random moments and given again until it ends, in as many rounds as the kills need. `--full-disks`: one
command of a round finds room for a random part of what it leaves, each as often as the others; once that has ended it,
there is room again and the round goes on. What then stands is compared with a round that nothing happened to, file by
file, times left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count as count_up
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from same_bytes import contents
from small_run import write_configuration, write_task

from seekr.bench import describe_machine
from seekr.cli.main import main as seekr
from seekr.disk.files import write_json

LIMIT = 120.0
"""Seconds after which a command is taken to hang."""

FULL = ("No space left on device", "is the disk full?")
"""What the one line says of a full disk, one or the other."""

DONE = {"export": "is there already", "memory --remove": "removed: "}
"""What a command says that was killed when all was done: given once more, it refuses, or would remove another row."""


@dataclass
class Round:
    """The commands of a round in a folder, each in a process of its own, and what they said."""

    folder: Path
    log: Path
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of each command, when nothing happened to it."""
    wrote: dict[str, int] = field(default_factory=dict)
    """Bytes that it left."""

    def commands(self) -> dict[str, list[str]]:
        run, more = self.folder / "run", self.folder / "more"
        fourth = write_task(self.folder, "reverse")
        task = f"reverse={fourth['train']},test={fourth['test']},separator=,max_new_tokens=3"
        return {
            "learn": ["learn", str(self.folder / "config.json")],
            "evaluate": ["evaluate", str(run), "--cells", "all"],
            "learn --from": ["learn", "--from", str(run), "--task", task, "--output-dir", str(more)],
            "export": ["export", str(more), "--output", str(self.folder / "exported")],
            "memory --remove": ["memory", str(run), "--remove", "sort/0"],
            "report": ["report", str(run), str(more), "--output", str(self.folder / "page.html")],
        }

    def start(self, words: list[str]) -> int:
        """The command in a fork of this process, which has loaded everything and computed nothing."""
        child = os.fork()
        if child:
            return child
        status = 70
        try:
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            status = seekr(words)
            sys.stdout.flush()
            sys.stderr.flush()
            self.modules.write_text("\n".join(sys.modules))
        except BaseException as error:
            os.write(2, f"TRACEBACK {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status or 0)

    def finish(self, words: list[str], after: float = LIMIT) -> int:
        """The command's exit status, or -9 where it was killed after so many seconds."""
        child, end = self.start(words), time.monotonic() + after
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @property
    def modules(self) -> Path:
        return self.log.with_name("modules")

    def load(self) -> None:
        """What the last command needed, so that a fork has it and spends its time on what can be lost."""
        for name in self.modules.read_text().split("\n"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    def undisturbed(self) -> dict[str, str]:
        for words in self.commands().values():
            self.finish(words)
            self.load()
        fresh(self.folder, self.log)
        for name, words in self.commands().items():
            before, room = time.monotonic(), free(self.folder)
            status = self.finish(words)
            self.took[name], self.wrote[name] = time.monotonic() - before, room - free(self.folder)
            if status:
                raise SystemExit(f"{name}: exit status {status}\n{self.said()}")
        return self.left()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def left(self) -> dict[str, str]:
        """Path → hash of all that stands in the folder; the page is compared with one that is written afterwards."""
        page = self.folder / "page.html"
        again = page.with_name("again.html")
        self.finish([*self.commands()["report"][:-1], str(again)])
        same = page.read_bytes() == again.read_bytes()
        for path in (page, again):
            path.unlink()
        return contents(self.folder / ".") | {"page.html": f"as written afterwards: {same}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where rounds are made; must be new")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full-disks", type=int, default=0, help="needs the right to mount")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    os.environ["PYTHONHASHSEED"] = "0"
    place = arguments.folder / "round"
    if arguments.full_disks:
        place.mkdir()
        mount(place)
    reference = fresh(place, arguments.folder / "said")
    expected = reference.undisturbed()
    draw = random.Random(arguments.seed)
    if arguments.full_disks:
        found = full_disks(arguments.full_disks, place, reference, expected, draw)
    else:
        found = kills(arguments.kills, place, reference, expected, draw)
    write_json(arguments.json, {"machine": describe_machine(), "files": len(expected), **found})
    print(json.dumps({key: value for key, value in found.items() if key != "rounds"}))


def fresh(place: Path, log: Path) -> Round:
    """An empty round at the same path as every other: paths are part of what is written."""
    for path in place.iterdir() if place.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    place.mkdir(exist_ok=True)
    write_configuration(place)
    return Round(place, log)


def kills(count: int, place: Path, reference: Round, expected: dict[str, str], draw: random.Random) -> dict[str, Any]:
    killed: Counter[str] = Counter()
    rounds = []
    while killed.total() < count:
        here, before = fresh(place, reference.log), killed.total()
        for name, words in here.commands().items():
            for attempts in count_up():
                longest = reference.took[name] * (0.5 + 0.1 * attempts)  # rising, so that it ends at all
                status = here.finish(words, after=draw.uniform(0, longest))
                killed[name] += status == -signal.SIGKILL
                if status == 0 or DONE.get(name, "\n\n") in here.said():
                    break
                if status != -signal.SIGKILL:
                    raise SystemExit(f"{name}: exit status {status} after a kill\n{here.said()}")
        rounds.append({"kills": killed.total() - before, "differs": differing(expected, here.left())})
        print(f"{killed.total()} kills, differs: {rounds[-1]['differs']}", file=sys.stderr)
    return {"kills": dict(killed), "differs": sum(bool(one["differs"]) for one in rounds), "rounds": rounds}


def full_disks(
    count: int, place: Path, reference: Round, expected: dict[str, str], draw: random.Random
) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = []
    filler = place / "filler"
    ended: Counter[str] = Counter()
    while ended.total() < count:
        here = fresh(place, reference.log)
        fewest = min(ended[name] for name in here.commands())
        chosen = draw.choice([name for name in here.commands() if ended[name] == fewest])
        room = draw.randrange(4096, max(8192, reference.wrote[chosen]))
        about: dict[str, Any] = {"command": chosen, "room": room}
        for name, words in here.commands().items():
            if name == chosen:
                with filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, max(4096, free(place) - room))
            while status := here.finish(words):
                said = here.said().replace("\r", "\n").splitlines()
                lines = [line for line in said if line.startswith("seekr: error:")]
                if not filler.exists() or len(lines) != 1 or not any(word in lines[0] for word in FULL):
                    raise SystemExit(f"{name}: exit status {status}\n{here.said()}")
                about |= {"status": status, "line": lines[0].replace(str(place.parent), "FOLDER")}
                ended[name] += 1
                filler.unlink()
            filler.unlink(missing_ok=True)
        rounds.append({**about, "differs": differing(expected, here.left())})
        print(rounds[-1], file=sys.stderr)
    return {"full": dict(ended), "differs": sum(bool(one["differs"]) for one in rounds), "rounds": rounds}


def mount(place: Path, size: int = 64 << 20) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("--full-disks: no right to mount; unshare -rm gives it")


def free(place: Path) -> int:
    at = os.statvfs(place)
    return at.f_bavail * at.f_frsize


def differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


if __name__ == "__main__":
    main()
