"""What stands in the folder of a run, compared with what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seekr.config import identity
from seekr.disk import read_json
from seekr.errors import InputError
from seekr.runs.folder import stage_name
from seekr.runs.run import seed_folders
from seekr.scoring.cells import cell_name, wanted_cells

if TYPE_CHECKING:
    from seekr.data.task_data import PlannedStage, TaskData
    from seekr.methods import Method

OWN = {".lock", ".run.json.partial"}
"""What a run may leave in its folder before run.json is there."""


def check_folder(run: Path) -> None:
    """An output folder is new, empty, or holds a run. Raises InputError."""
    if run.exists() and not run.is_dir():
        raise InputError(f"output_dir: {run} is a file; give a folder")
    if not (run / "run.json").exists() and (seeds := seed_folders(run)):
        names = ", ".join(folder.name for folder in seeds)
        raise InputError(f"output_dir: {run} holds {names}: go on with them by `seeds`, or give another folder")
    if run.is_dir() and not (run / "run.json").exists() and any(path.name not in OWN for path in run.iterdir()):
        raise InputError(f"output_dir: {run} holds files, but no run of seekr; give an empty or a new folder")


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
    for index, folder in enumerate(finished):
        there = read_json(folder / "stage.json")["identity"]
        if there["name"] != planned[index]:
            place = f"task {index} (counted from 0, skills first)"
            raise InputError(
                f"{run} holds a different run: {place} is {there['name']!r} there and {planned[index]!r} here; "
                "new tasks go to the end of the list, or choose another output_dir"
            )
        identity.compare(run, {"tasks": there["tasks"]}, {"tasks": stages[index].identity()["tasks"]})


def check_answered(cells: str, tasks: list[TaskData], *, joint: bool) -> None:
    """Test rows that are gone must have been answered wherever a score is wanted. Raises InputError."""
    wanted = wanted_cells(cells, len(tasks), joint=joint)
    for column, data in enumerate(tasks):
        if data.gone is None or data.finished is None:
            continue
        answered = {path.stem for path in data.finished.predictions.glob(f"*-{column}.jsonl")}
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
    from seekr.memory.reader import Memory

    for folder in finished:
        if method.keeps or (folder / "memory").is_dir():
            Memory.open(folder / "memory", tokenizer_fingerprint=tokenizer, model_fingerprint=model)
    method.check_kept(finished)
