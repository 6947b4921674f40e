"""Several seeds of one request: a run each in output_dir/seed-N, checked together, then learned in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from seekr.config import identity
from seekr.config.schema import Config
from seekr.data.clock import clock_of, now
from seekr.disk.files import read_json
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import of_main, say_once
from seekr.errors import InputError, RunError
from seekr.runs.execute import run_request, settle_runs
from seekr.runs.folder import seed_folders
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.record_schema import read_record
from seekr.runs.run import Run

Load = Callable[[Sequence[str]], Config]
"""Makes the configuration with overrides applied."""


@dataclass(frozen=True)
class Trial:
    """One of several configurations that are compared: its folder, and a request for each seed."""

    folder: Path
    requests: list[Request]

    @property
    def in_seeds(self) -> bool:
        """Whether its runs lie in seed-N below its folder."""
        return Path(self.requests[0].config.output_dir) != self.folder


def seed_requests(request: Request) -> list[Request]:
    """A request for each of the configuration's seeds; the request itself where it names none."""
    if request.config.seeds is None:
        return [request]
    requests = []
    for seed in request.config.seeds:
        folder = str(Path(request.config.output_dir) / f"seed-{seed}")
        config = request.config.model_copy(update={"seed": seed, "seeds": None, "output_dir": folder})
        requests.append(replace(request, config=config))
    return requests


def run_seeds(requests: Sequence[Request]) -> list[Run]:
    """Checks the requests of all seeds, then does what is still to do of each; finished ones are not learned again.

    Raises as `execute.run_request`, RunError with the seed in front.
    """
    agreed(lambda: settle_runs(requests))
    agreed(lambda: check_seeds(requests))
    root = Path(requests[0].config.output_dir).parent
    began = requests[0].began or begin_of([folder / "run.json" for folder in seed_folders(root)])
    runs = []
    for number, request in enumerate(requests, start=1):
        seed, folder = request.config.seed, request.config.output_dir
        say_once(f"seed {seed}, {number} of {len(requests)}: {folder}")
        try:
            runs.append(run_request(replace(request, began=began)))
        except RunError as error:
            raise RunError(f"seed {seed}: {error}") from None
    return runs


def begin_of(begun: Sequence[Path]) -> datetime:
    """When runs begin that are to be compared: with the first run.json that is there already, so that they differ in
    nothing that a chat template takes from the clock.
    """
    return of_main(min((clock_of(read_json(path), path) for path in begun), default=now()))


def check_seeds(requests: Sequence[Request]) -> RunSpec:
    """Prepares the request of each seed and looks at what else their common folder holds; writes nothing.

    Returns the first one's preparation. Raises InputError.
    """
    root = Path(requests[0].config.output_dir).parent
    check_root(root)
    first = prepare(requests[0])
    check_other_seeds(root, requests, first)
    for spec in (first, *map(prepare, requests[1:])):
        check_encryption(spec, seed_folders(root))
    return first


def check_root(root: Path) -> None:
    """The folder of several seeds is new or empty, or holds some already. Raises InputError."""
    if root.exists() and not root.is_dir():
        raise InputError(f"output_dir: {root} is a file; give a folder")
    if (root / "run.json").is_file():
        raise InputError(
            f"output_dir: {root} holds a run of one seed ({Run(root).record['seed']}); seeds makes a folder for each "
            "seed, so give another output_dir"
        )
    if root.is_dir() and any(root.glob("[!.]*")) and not any(root.glob("seed-*")):
        raise InputError(f"output_dir: {root} holds files, but no seeds of a run; give an empty or a new folder")


def check_encryption(spec: RunSpec, others: Sequence[Path]) -> None:
    """A run that is new among encrypted ones, of other seeds or methods, is encrypted as well. Raises InputError."""
    if spec.config.encrypt or (spec.run / "run.json").is_file():
        return
    for folder in others:
        record = read_record(folder)
        if record is not None and record["config"].get("encrypt"):
            raise InputError(f"{folder} is encrypted, and {spec.run} would not be; say encrypt: true")


def check_other_seeds(root: Path, requests: Sequence[Request], spec: RunSpec) -> None:
    """Seeds in the folder that are not asked for must be of the same run, or their mean would say nothing.

    Tasks may have come to the end of the list since. Raises InputError naming the first difference.
    """
    config = spec.config.model_dump(mode="json")
    here = identity.without_seed({"identity": spec.identity, "config": config})
    for folder in seed_folders(root):
        if str(folder) not in {request.config.output_dir for request in requests}:
            there = identity.without_seed(read_json(folder / "run.json"))
            count = min(len(there["tasks"]), len(here["tasks"]))
            identity.compare(folder, *(_with_first_tasks(it, count) for it in (there, here)))


def _with_first_tasks(settings: dict[str, Any], count: int) -> dict[str, Any]:
    tasks = dict(list(settings["tasks"].items())[:count])
    others = {key: value for key, value in settings.items() if key != "tasks"}
    return {**others, "order of tasks": list(tasks), "tasks": tasks}
