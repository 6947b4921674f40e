"""One more task on top of a finished run, in a folder of its own: `seekr learn --from RUN --task NAME=PATH`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seekr.config.schema import apply_overrides, make_config
from seekr.config.task_words import parse_task
from seekr.data.reading import task_from_folder
from seekr.disk.files import user_path
from seekr.errors import InputError
from seekr.methods import find_method
from seekr.runs.folder import seed_folders
from seekr.runs.lost_stages import lost
from seekr.runs.prepare import Request
from seekr.runs.record import describe_task
from seekr.runs.run import Run
from seekr.scoring.cells import JOINT

FREE = ("cells", "encrypt", "general", "keep_stages", "vllm")


def extend(source: Path, text: str, output_dir: Path | None, overrides: Sequence[str] = ()) -> Request:
    """What to do for `--from source --task text`: the run's own configuration with one task at its end.

    `text` is NAME=PATH[,key=value,...]: a file of training rows, or a folder with train, eval and test; the keys are
    those of a task, such as metric=rouge_l. The new run lies in `output_dir`, by default SOURCE-NAME. `overrides` are
    settings of the new task's training that nothing kept of the finished ones depends on. Raises InputError.
    """
    run = Run(source)
    if any(status.state != "done" for status in run.status()):
        goes_on = "finish it with its own `seekr learn` command first"
        raise InputError(lost(source) or f"{source}: this run is not finished; {goes_on}")
    if run.record["config"]["method"]["name"] == JOINT:
        raise InputError(f"{source}: its method joint learns all tasks at once; begin a new run with all of them")
    task = parse_task(text)
    made = make_task(task)
    here = source.resolve()
    folder = output_dir if output_dir is not None else here.with_name(f"{here.name}-{made.name}")
    if folder.resolve() == source.resolve():
        raise InputError(f"--output-dir {folder}: is the run to go on from, which stays untouched; give another folder")
    raw = run.config.model_dump(exclude={"encrypt"})  # as the run has it, or the one that goes on
    for override in overrides:
        check_free(override, raw["method"])
    apply_overrides(raw, overrides)
    raw |= {"tasks": [*raw["tasks"], describe_task(made)], "output_dir": str(folder.absolute())}
    return Request(make_config(raw, f"--from {source}"), source=source.resolve())


def check_free(override: str, method: Mapping[str, Any]) -> None:
    """Raises InputError for a setting that a run cannot go on with another value of."""
    key = override.partition("=")[0].strip()
    free = [f"method.{name}" for name in sorted(find_method(method["name"]).free)]
    if key not in (*free, *FREE) and not key.startswith(("training.", "vllm.", "general.")):
        raise InputError(
            f"{override!r}: --from goes on with what the run has; other values can be given to training.KEY, "
            f"{', '.join((*FREE, *free))}"
        )


def extend_seeds(source: Path, text: str, output_dir: Path | None, overrides: Sequence[str] = ()) -> list[Request]:
    """The same for each run in a folder of seeds: they go on in a folder of seeds. Raises InputError."""
    name = parse_task(text)["name"]
    here = source.resolve()
    root = output_dir if output_dir is not None else here.with_name(f"{here.name}-{name}")
    if root.resolve() == here:
        raise InputError(
            f"--output-dir {root}: holds the runs to go on from, which stay untouched; give another folder"
        )
    return [extend(folder, text, root / folder.name, overrides) for folder in seed_folders(source)]


def make_task(given: dict[str, Any]) -> Any:
    """The task; its paths are looked up from the current folder. Raises InputError."""
    given = dict(given)
    name, path = given.pop("name"), user_path(given.pop("path"))
    for key in ("train", "test", "eval", "chat_template"):
        if isinstance(given.get(key), str | Path) and user_path(given[key]).exists():
            given[key] = user_path(given[key]).absolute()
    return task_from_folder(name, path.absolute(), **given)
