"""Whether what is asked for can go on from what stands: finished tasks, their answers, what is kept of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seekr import identity
from seekr.cells import cell_name, wanted_cells
from seekr.disk import read_json
from seekr.errors import InputError
from seekr.stages import stage_name

if TYPE_CHECKING:
    from seekr.preparation import Prepared
    from seekr.task_data import PlannedStage


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


def check_answered(prepared: Prepared) -> None:
    """Test rows that are gone must have been answered wherever a score is wanted. Raises InputError."""
    wanted = wanted_cells(prepared.config.cells, len(prepared.tasks), joint=prepared.joint)
    for column, data in enumerate(prepared.tasks):
        if data.gone is None or data.finished is None:
            continue
        answered = {path.stem for path in data.finished.predictions.glob(f"*-{column}.jsonl")}
        cells = {cell_name(row, column) for row, other in wanted if other == column}
        if not cells <= answered:
            raise InputError(
                f"{data.gone}; it is still to be scored, and what was answered does not tell how its rows were asked: "
                "put the file back"
            )


def check_memories(prepared: Prepared) -> None:
    """What is kept of the finished tasks must belong to this tokenizer and model, undamaged. Raises InputError."""
    from seekr.memory import Memory

    if len(prepared.finished) == len(prepared.stages):
        return
    for folder in prepared.finished:
        if prepared.method.keeps or (folder / "memory").is_dir():
            Memory.open(
                folder / "memory",
                tokenizer_fingerprint=prepared.tokenizer_fingerprint,
                model_fingerprint=prepared.model_fingerprint,
            )
    prepared.method.check_kept(prepared.finished)
