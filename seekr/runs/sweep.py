"""Several methods on one configuration: each in output_dir/METHOD, all checked before the first is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from seekr.distributed.agreement import agreed
from seekr.distributed.processes import process_count, say_once
from seekr.errors import InputError, RunError, say
from seekr.methods import find_method
from seekr.runs.execute import run_request
from seekr.runs.folder import seed_folders
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.seeds import Load, Trial, begin_of, check_encryption, check_seeds, run_seeds, seed_requests


@dataclass(frozen=True)
class Entry(Trial):
    """A method of the sweep, and the given settings that it does not know."""

    method: str
    left_out: Sequence[str]

    @property
    def begun(self) -> bool:
        return (self.folder / "run.json").is_file() or bool(seed_folders(self.folder))

    def __str__(self) -> str:
        without = f"; it does not know {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.method}: {self.folder}{without}"


def sweep_of(load: Load, words: Sequence[str], methods: Sequence[str], *, verify: bool = True) -> list[Entry]:
    """The entries of a sweep. A setting counts for the methods that know it; one that none knows is refused.

    `words`: key=value overrides, for all methods. Raises InputError.
    """
    for name in methods:
        if methods.count(name) > 1:
            raise InputError(f"--methods names {name} twice")
    known = {name: {field.name for field in fields(find_method(name))} for name in methods}
    if named := [word for word in words if word.partition("=")[0] in ("method", "method.name")]:
        raise InputError(f"{named[0]!r}: --methods names the methods; leave it out")
    base = load([word for word in words if _setting(word) is None])
    root = Path(base.output_dir)
    if (root / "run.json").is_file() or seed_folders(root):
        raise InputError(f"output_dir: {root} holds a run; --methods makes a folder for each method, so give another")
    given = dict.fromkeys([*base.method, *filter(None, map(_setting, words))])
    entries = []
    for name in methods:
        foreign = set().union(*known.values()) - known[name]
        own = [word for word in words if _setting(word) not in foreign]
        config = load([*own, f"method.name={name}"]).model_copy(update={"output_dir": str(root / name)})
        left_out = [key for key in given if key not in config.method]
        entries.append(Entry(root / name, seed_requests(Request(config, verify=verify)), name, left_out))
    return entries


def _setting(word: str) -> str | None:
    """Which setting of a method an override is of; None = of none."""
    key = word.partition("=")[0].split(".")
    return key[1] if key[0] == "method" and len(key) > 1 else None


def check_sweep(entries: Sequence[Entry], *, weights: bool = True) -> Iterator[RunSpec]:
    """Prepares all of it, and gives each method's first seed; `weights`: whether those of the model are read.

    Raises InputError, the method in front.
    """
    folders = [Path(request.config.output_dir) for entry in entries for request in entry.requests]
    for entry in entries:
        looks = [replace(request, weights=weights) for request in entry.requests]
        try:
            spec = check_seeds(looks) if entry.in_seeds else prepare(looks[0])
            check_encryption(spec, folders)
            yield spec
        except InputError as error:
            raise InputError(f"method {entry.method}: {error}") from None


def run_sweep(entries: Sequence[Entry]) -> list[str]:
    """Does what is still to do of each method, and returns the names of those that failed, each said on stderr.

    Raises as `execute.run_request`; RunError where other processes would wait for one that failed.
    """

    def check() -> None:
        for _ in check_sweep(entries):  # each is dropped before the next: it holds the tokenized rows
            pass

    agreed(check)
    records = [Path(request.config.output_dir) / "run.json" for entry in entries for request in entry.requests]
    began = begin_of([path for path in records if path.is_file()])
    failed = []
    for number, entry in enumerate(entries, start=1):
        say_once(f"method {number} of {len(entries)}: {entry}")
        requests = [replace(request, began=began) for request in entry.requests]
        try:
            run_seeds(requests) if entry.in_seeds else run_request(requests[0])
        except RunError as error:
            if process_count() > 1:
                raise RunError(f"method {entry.method}: {error}") from None
            failed.append(entry.method)
            say(f"method {entry.method} failed: {error}")
    return failed
