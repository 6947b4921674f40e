"""The folder of a run on disk: stages that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from seekr.disk.files import clear_folder, flush, make_room, sync, write_atomically
from seekr.disk.full import naming
from seekr.disk.regular import read_bytes, regular
from seekr.errors import InputError, RunError

_STAGE = re.compile(r"^(\d{2,})-(.+)$")
_POINTED = re.compile(r"stages/\d{2,}-[^/\n]+/model")
_LEVELS = ("*", "*/*", "*/*/*")  # a folder of sweeps has SWEEP/METHOD/seed-N


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders meant by `paths`: each itself, or those below it (methods of a demo, seeds of a run).

    In the order given, within a folder by name, each once. Raises InputError where a path holds no run, or a seed is
    torn out.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        runs = [path] if (path / "run.json").exists() else runs_below(path)
        if not runs:
            raise InputError(f"{path}: no run.json there or below; give the output_dir of a `seekr learn`")
        for root in {run.parent for run in runs if run != path}:
            check_none_is_torn_out(root)
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def seed_folders(folder: Path) -> list[Path]:
    """The runs that `seeds` left in a folder: seed-0, seed-1, ..., in the order of their numbers."""
    numbers = {path.parent: path.parent.name.removeprefix("seed-") for path in folder.glob("seed-*/run.json")}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda it: int(numbers[it]))


def run_or_seeds(folder: Path) -> list[Path]:
    """A run's folder itself, or those of its seeds. Raises InputError where a seed is torn out."""
    if (folder / "run.json").is_file():
        return [folder]
    check_none_is_torn_out(folder)
    return seed_folders(folder) or [folder]


def check_none_is_torn_out(root: Path) -> None:
    """Each seed-N next to the run of another seed holds one, or has not begun. Raises InputError."""
    seeds = [path for path in sorted(root.glob("seed-*")) if path.name.removeprefix("seed-").isdecimal()]
    torn = [path for path in seeds if not (path / "run.json").exists()]
    for path in torn if len(torn) < len(seeds) else ():
        if not path.is_dir() or any(path.glob("[!.]*")):
            raise InputError(
                f"{path}: run.json is missing, and every mean would go without this seed; bring it back from a copy, "
                "or move away what is left of it"
            )


def runs_below(folder: Path) -> list[Path]:
    """The run folders up to three levels below one, by name."""
    return [record.parent for record in sorted(_at_levels(folder, "run.json"))]


def _at_levels(folder: Path, name: str) -> Iterator[Path]:
    return (path for at in _LEVELS for path in folder.glob(f"{at}/{name}"))


def check_run(folder: Path) -> None:
    """Raises InputError where `folder` is no run, with what it is."""
    if (folder / "run.json").exists():
        return
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; give the output_dir of `seekr learn`")
    if seeds := seed_folders(folder):
        names = ", ".join(map(str, seeds))
        raise InputError(f"{folder}: holds a run of each of several seeds; give one of {names}")
    if below := runs_below(folder):
        them = f"such as {below[0]}; `seekr status {folder}` lists them"
        raise InputError(f"{folder}: no run itself, but runs lie below it; give one of them, {them}")
    raise InputError(f"{folder}: no run here (run.json is missing); give the output_dir of `seekr learn`")


def left_out(folders: Sequence[Path]) -> list[str]:
    """A line for each run, up to three levels below folders that are none, which has stages and has lost its run.json:
    it cannot be shown."""
    above = [folder for folder in folders if not (folder / "run.json").exists()]
    found = [run for folder in above for run in sorted(path.parent for path in _at_levels(folder, "stages"))]
    lost = [run for run in found if not (run / "run.json").exists()]
    return [f"{run}: left out, since its run.json is missing; bring it back from a copy" for run in lost]


def stage_folder(run: Path, index: int, name: str) -> Path:
    """Where the finished stage of task `index` stands."""
    return run / "stages" / f"{index:02d}-{name}"


def working_folder(run: Path, index: int, name: str) -> Path:
    """Where the Trainer keeps its checkpoints while task `index` is being learned."""
    return run / "working" / f"{index:02d}-{name}"


def stage_name(folder: Path) -> str:
    """The task of a finished stage, from its folder's name."""
    return folder.name.partition("-")[2]


def finished_stages(run: Path) -> list[Path]:
    """The finished stages in their order. Raises RunError where one is missing in between, or two have one number."""
    found: dict[int, Path] = {}
    for folder in sorted((run / "stages").glob("*")):
        if match := _STAGE.match(folder.name):
            if int(match[1]) in found:
                both = f"{found[int(match[1])].name} and {folder.name}"
                raise RunError(f"{run / 'stages'}: {both} have one number; move away what is not of this run")
            found[int(match[1])] = folder
    for index, present in enumerate(sorted(found)):
        if index != present:
            raise RunError(f"{run / 'stages'}: stage {index:02d} is missing, though later ones are there; put it back")
    return [found[index] for index in sorted(found)]


def has_weights(stage: Path) -> bool:
    """Whether a stage holds a model; skills never do, older stages not after `keep_stages`."""
    return (stage / "model").is_dir()


def partial_folder(final: Path) -> Path:
    """Where a stage is built that will stand under `final`."""
    return final.with_name(f".{final.name}.partial")


@contextmanager
def stage_under_construction(final: Path) -> Iterator[Path]:
    """Yields an empty folder; when the block ends well, its content is on the disk and stands under `final`."""
    partial = partial_folder(final)
    clear_folder(partial)
    partial.mkdir(parents=True)
    with naming(partial):
        yield partial
        flush(partial)
    partial.replace(final)
    sync(final.parent)


def without_newest(stages: list[Path], keep: str | int, *, more: int = 0) -> list[Path]:
    """The stages that have weights, without the newest `keep` of them once `more` new ones are there."""
    found = [stage for stage in stages if has_weights(stage)]
    kept = len(found) if keep == "all" else (1 if keep == "last" else int(keep)) - more
    return found[: max(0, len(found) - max(0, kept))]


def drop_older_weights(stages: list[Path], keep: str | int) -> None:
    """Removes the model folders of all but the newest `keep` stages that have one; everything else of them stays."""
    for stage in stages:
        clear_folder(stage / ".model.removed")
    for stage in without_newest(stages, keep):
        removed = stage / ".model.removed"
        (stage / "model").replace(removed)
        shutil.rmtree(removed)


def remove_stage(stage: Path) -> None:
    """Removes a stage with the answers that its model gave: the newest of a run, so that those before it stay whole.

    Stopped in between, it stands as before or is gone; of one that was lost the answers are left to be removed.
    """
    run, index = stage.parents[1], int(stage.name.partition("-")[0])
    for answers in (run / "predictions").glob("[0-9]*-*.jsonl"):
        if int(answers.name.partition("-")[0]) >= index:
            answers.unlink()
    removed = stage.with_name(f".{stage.name}.removed")
    clear_folder(removed)
    if os.path.lexists(stage):
        stage.replace(removed)
        sync(stage.parent)
        clear_folder(removed)


def point_to_newest_model(run: Path) -> None:
    """Makes RUN/model the newest stage's model folder: a relative link, or where none can be made a file with its path.

    What else stands under that name is left alone.
    """
    place = run / "model"
    newest = next((stage for stage in reversed(finished_stages(run)) if has_weights(stage)), None)
    there = _pointed_at(place)
    if there is None and os.path.lexists(place):
        return
    if newest is None:
        place.unlink(missing_ok=True)
        return
    target = (newest / "model").relative_to(run).as_posix()
    if there == target:
        return
    partial = place.with_name(".model.partial")
    make_room(partial)
    try:
        partial.symlink_to(target, target_is_directory=True)
    except OSError:  # a file system, or a Windows, without links
        write_atomically(place, f"{target}\n")
        return
    partial.replace(place)
    sync(run)


def _pointed_at(place: Path) -> str | None:
    """Where RUN/model points to, from RUN; None where it is not there, or not of our making."""
    try:
        text = place.readlink().as_posix() if place.is_symlink() else read_bytes(place).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _POINTED.fullmatch(text) else None


def check_copied(source: Path) -> None:
    """Raises InputError where something in a folder that is to be copied is neither a file nor a folder."""
    for path in (source, *source.rglob("*")):
        if path.is_symlink():
            raise InputError(f"{path}: is a link, and copying would take what it leads to; put the file itself there")
        if path.exists() and not path.is_dir():
            regular(path)


def copy_stage(source: Path, final: Path, *, weights: bool) -> None:
    """Copies a finished stage, whole or not at all, with or without its model; its tensors are shared, see `_share`."""
    check_copied(source)
    with stage_under_construction(final) as partial:
        ignore = None if weights else shutil.ignore_patterns("model")
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=ignore, copy_function=_share)


def _share(source: str, place: str) -> None:
    """A second name for a file of tensors, where the file system has such; a copy of any other file.

    Nobody edits tensors by hand, and seekr replaces such a file and never writes into it: what becomes of one run does
    not change the other.
    """
    if source.endswith(".safetensors"):
        with suppress(OSError):
            os.link(source, place)
            return
    shutil.copy2(source, place)
