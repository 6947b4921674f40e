"""What stands in the folder of a run, compared with what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seekr.config import identity
from seekr.config.schema import Config
from seekr.data.finished import read_predictions
from seekr.data.task_data import PlannedStage, TaskData
from seekr.disk.files import Fault, read_json, runs_around
from seekr.distributed.processes import process_count
from seekr.errors import InputError, nearest
from seekr.memory.reader import Memory
from seekr.methods import Method
from seekr.runs.answer_lines import are_of
from seekr.runs.answered_by import answered_by_faults
from seekr.runs.exchange import check_settled
from seekr.runs.folder import finished_stages, has_weights, seed_folders, stage_name
from seekr.runs.kept_scores import KeptScores
from seekr.runs.lost_stages import mend
from seekr.runs.manifest import LOST, chain_faults, faults, file_faults, lost_stages
from seekr.runs.places import check_places
from seekr.runs.record_schema import read_record
from seekr.scoring.cells import cell_name

OWN = {".lock", ".run.json.partial"}
"""What a run may leave in its folder before run.json is there."""


def check_output_dir(run: Path) -> None:
    """An output folder is new, empty, or holds a run. Raises InputError."""
    if run.exists() and not run.is_dir():
        raise InputError(f"output_dir: {run} is a file; give a folder")
    check_places(run)
    check_settled(run)
    if (run / "run.json").exists():
        return
    if seeds := seed_folders(run):
        names = ", ".join(folder.name for folder in seeds)
        raise InputError(f"output_dir: {run} holds {names}: go on with them by `seeds`, or give another folder")
    if around := runs_around(run):
        raise InputError(f"output_dir: {run} lies in the folder of the run {around[0]}; give a folder outside of it")
    if run.is_dir() and any(path.name not in OWN for path in run.iterdir()):
        if (run / "stages").is_dir():
            raise InputError(f"{run / 'run.json'}: missing, though stages are there; bring it back from a copy")
        raise InputError(f"output_dir: {run} holds files, but no run of seekr; give an empty or a new folder")


def as_begun(config: Config, record: Mapping[str, Any] | None, home: Path) -> Config:
    """A configuration with what a run keeps to wherever it does not say otherwise: fewer scores, and encryption.

    `record`: run.json of `home`, None = a new run. Raises InputError where an encrypted run is to go on without.
    """
    if record is None:
        return config
    kept = {"cells": record["config"].get("cells", "paper"), "encrypt": record["config"].get("encrypt", False)}
    config = config.model_copy(update={key: kept[key] for key in kept if key not in config.model_fields_set})
    if kept["encrypt"] and not config.encrypt:
        raise InputError(
            f"encrypt: false, but what {home} keeps is encrypted, and stays so: leave the key out, or say encrypt: "
            "true; for rows in plain text begin a new run in another output_dir"
        )
    return config


def check_finished(run: Path, finished: list[Path], stages: list[PlannedStage]) -> None:
    """What is finished must be the beginning of what is asked for. Raises InputError naming the first difference."""
    names = [stage_name(folder) for folder in finished]
    planned = [stage.name for stage in stages]
    late = [stage.name for stage in stages if not stage.learn and stage.name not in names]
    if late and any(stage.learn for stage in stages if stage.name in names):
        raise InputError(
            f"task {late[0]!r}: learn: false remembers what the base model can do before anything is trained, "
            f"and {run} has learned tasks already; begin a new run in another output_dir"
        )
    if len(names) > len(planned):
        missing = next(name for name in names if name not in planned or len(planned) == 0)
        raise InputError(f"{run} has finished task {missing!r} too, which is not among the tasks here; put it back")
    kept, record = KeptScores.read(run / "scores.json", put_aside=False), read_record(run)
    for index, folder in enumerate(finished):
        for fault in file_faults(folder, hashed=False, weights=False, only="stage.json"):
            raise InputError(f"{fault}; {mend(folder)}")
        there = read_json(folder / "stage.json")["identity"]
        if there["name"] != planned[index]:
            place = f"task {index} (counted from 0, skills first)"
            raise InputError(
                f"{run} holds a different run: {place} is {there['name']!r} there and {planned[index]!r} here; "
                "new tasks go to the end of the list, or choose another output_dir"
            )
        here = stages[index].identity()["tasks"]
        for name in _without_taken_back(run, kept.removed, stages[index], index):
            there["tasks"].get(name, {})["test"] = here[name]["test"]
        identity.compare(run, {"tasks": there["tasks"]}, {"tasks": here})
    if record is not None:  # the scores that the run goes on with are of its own models
        for fault in answered_by_faults(run / "scores.json", kept.models, finished, record, len(kept.matrix.tasks)):
            raise InputError(str(fault))


def _without_taken_back(run: Path, removed: Iterable[str], stage: PlannedStage, first: int) -> list[str]:
    """The tasks whose test rows are those that were scored but for rows of which the answers were taken back.

    `removed`: the cells of which some were. `first`: the column of the stage's first task.
    """
    found = []
    for column, data in enumerate(stage.data, start=first):
        names = [name for name in removed if name.partition("-")[2] == str(column)]
        answers = [read_predictions(run / "predictions" / f"{name}.jsonl") for name in names]
        if data.gone is None and any(kept and are_of(kept, data.test) for kept in answers):
            found.append(data.task.name)
    return found


def check_answered(wanted: Sequence[tuple[int, int]], columns: Mapping[int, TaskData]) -> None:
    """Test rows that are gone must have been answered wherever a score is wanted. Raises InputError."""
    for column, data in columns.items():
        if data.gone is None or data.finished is None:
            continue
        answered = {path.stem for path in data.finished.predictions.glob("*.jsonl")}
        names = {cell_name(row, column) for row, other in wanted if other == column}
        if not names <= answered:
            raise InputError(
                f"{data.gone}; it is still to be scored, and what was answered does not tell how its rows were asked: "
                "put the file back"
            )


def check_memories(method: Method, finished: list[Path], *, model: str, tokenizer: str) -> None:
    """What is kept of the finished tasks must belong to the tokenizer and model of these fingerprints, undamaged.

    Raises InputError.
    """
    for folder in finished:
        if method.keeps or (folder / "memory").is_dir():
            Memory.open(folder / "memory", tokenizer_fingerprint=tokenizer, model_fingerprint=model)
    method.check_kept(finished)


def rows_of_a_batch(training: dict[str, Any]) -> int:
    """Rows that a process takes at once."""
    return int(training.get("per_device_train_batch_size", 8))


def rows_of_a_step(training: dict[str, Any], record: dict[str, Any] | None) -> int:
    """Rows of an optimizer step. A run, of which this is the `record`, keeps its own whatever number of processes
    goes on with it: they take as many micro-batches as are needed.
    """

    def of_a_process(settings: dict[str, Any]) -> int:
        return rows_of_a_batch(settings) * int(settings.get("gradient_accumulation_steps", 1))

    if record is not None and of_a_process(record["config"]["training"]) == of_a_process(training):
        return int(identity.as_kept_now(record["identity"])["step_rows"])
    return of_a_process(training) * process_count()


def without_redone(run: Path, home: Path, record: Mapping[str, Any], redo: str | None) -> tuple[list[Path], list[Path]]:
    """The stages that stay, and from the one called `redo` on those that are to be learned again, lost ones too.

    `home`, whose run.json is `record`: the run itself, or the one that it takes its stages from. Raises InputError
    where a stage is lost that is not to be learned again.
    """
    standing = finished_stages(home)
    finished = [*standing, *(folder for folder in lost_stages(home, record) if folder not in standing)]
    names = [stage_name(folder) for folder in finished]
    if redo is not None and redo not in names:
        raise InputError(f"--redo {redo}: {home} has no finished stage of that name; {nearest(redo, names)}")
    place = len(names) if redo is None else names.index(redo)
    for folder in finished[:place]:
        if not folder.is_dir():
            raise InputError(f"{folder}: {LOST}; {mend(folder)}")
    for folder in lost_stages(run, read_record(run) or {}) if run != home else ():
        raise InputError(f"{folder}: {LOST}; bring it back from a copy, or give another output_dir")
    return finished[:place], finished[place:]


def check_whole(
    finished: list[Path], stages: list[PlannedStage], record: Mapping[str, Any], *, hashed: bool
) -> list[Fault]:
    """The next task starts from the newest weights, and from all that is kept, as they were written: or not at all.

    Args:
        record: run.json.
        hashed: whether all files are read and compared with their hashes, or small ones alone.

    Returns:
        What is damaged and no later task needs: logs and older weights.

    Raises:
        InputError: where something that it does need is not as it was.
    """
    learned = [folder for folder, stage in zip(finished, stages, strict=False) if stage.learn]
    for newest in learned[-1:]:
        if not has_weights(newest):
            raise InputError(
                f"{newest / 'model'}: missing, and the next task starts from these weights; {mend(newest)}"
            )
    found = list(faults(finished, record, hashed=hashed, weights=learned[-1:]))
    spare = [stage / "log.jsonl" for stage in finished]
    spare += [stage / "model" for stage in finished if stage not in learned[-1:]]
    needed = [fault for fault in found if not fault.lies_in(*spare)]
    if needed:
        more = f" (and {len(needed) - 1} more: `seekr verify` lists them)" if len(needed) > 1 else ""
        stage = next(folder for folder in finished if needed[0].lies_in(folder))
        raise InputError(f"{needed[0]}{more}; {mend(stage)}")
    return found


def check_chain(stages: Sequence[Path], record: Mapping[str, Any]) -> None:
    """The stages are of the run whose run.json the `record` is, each after those before it. Raises InputError."""
    for fault in chain_faults(stages, record):
        raise InputError(f"{fault}; {mend(next(stage for stage in stages if fault.lies_in(stage)))}")


def check_weights(run: Path, stage: Path, *, hashed: bool = True) -> None:
    """The weights of a stage that are to answer are those that were written, and the stage is of this run.

    `hashed`: large files are read too. Raises InputError.
    """
    stages = finished_stages(run)
    check_chain(stages[: 1 + [folder.name for folder in stages].index(stage.name)], read_record(run) or {})
    for fault in file_faults(stage, hashed=hashed, weights=True, only="model/"):
        raise InputError(f"{fault}; {mend(stage)}")


def check_part(stage: Path, name: str) -> None:
    """A file of a stage, or a folder of it where the name ends with a slash, is what was written. Raises InputError."""
    for fault in file_faults(stage, hashed=True, weights=False, only=name):
        raise InputError(f"{fault}; {mend(stage)}")
