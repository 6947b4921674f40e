"""The life of a run: prepared, begun, stage after stage, scored. Stopped anywhere, it goes on from there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seekr.data.clock import now
from seekr.data.task_data import PlannedStage
from seekr.disk.files import clear_folder, read_json, sync, with_own_hash, write_atomically, write_json
from seekr.disk.regular import read_bytes
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import is_main, of_main, process_count, wait_for_all
from seekr.errors import InputError, RunError, say
from seekr.modeling.loading import one_kind_of_bar
from seekr.progress import all_tasks
from seekr.runs.exchange import check_settled, settle
from seekr.runs.folder import (
    copy_stage,
    drop_older_weights,
    finished_stages,
    point_to_newest_model,
    remove_stage,
    stage_folder,
    stage_name,
)
from seekr.runs.general_tasks import GENERAL_FILE, forget_stages
from seekr.runs.grafted import GRAFT_FILE
from seekr.runs.guard import guard_warnings
from seekr.runs.kept_scores import forget_rows
from seekr.runs.live import LiveLog
from seekr.runs.lock import locked
from seekr.runs.manifest import faults, unverified
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.record import describe_run, name_stages, versions
from seekr.runs.run import Run
from seekr.runs.scores import ScoreBook
from seekr.runs.standing import check_whole


def run_request(request: Request) -> Run:
    """Checks a request, then does what is still to do of it. Raises InputError, RunError, KeyboardInterrupt."""
    from seekr.runs.stage import build_stage

    request = replace(request, began=of_main(request.began or now()))
    agreed(lambda: settle_runs([request]))
    spec = agreed(lambda: prepare(request), facts)
    if is_main():
        warn(spec)
    try:
        with one_kind_of_bar(), ExitStack() as stack:
            agreed(lambda: start(spec, stack))
            agreed(lambda: check_shared(spec.run))
            live = stack.enter_context(closing(LiveLog(spec)))
            book = ScoreBook(spec, live)
            if spec.redone:
                book.write()  # without the scores of stages that are gone
            waiting = [it for it in spec.stages if not stage_folder(spec.run, it.index, it.name).is_dir()]
            if len(waiting) < len(spec.stages):
                finish_stage(spec, book)  # what an earlier start left to be scored
            elif cells := book.measurable(book.missing(spec.config.cells)):
                book.fill(cells)  # the guard, and what is wanted of the base model
            stack.enter_context(all_tasks(sizes_of(spec)))
            for stage in waiting:
                build_stage(spec, stage, live)
                finish_stage(spec, book)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what was learned is kept in {spec.run}, and the same command goes on from there"
        ) from None
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory ({str(error).splitlines()[0]}); what was finished is kept in {spec.run}. A smaller "
            "training.per_device_train_batch_size with a larger gradient_accumulation_steps is the same training"
        ) from None
    return Run(spec.run)


def settle_runs(requests: Sequence[Request]) -> None:
    """Finishes removals that were stopped in the folders of runs and of those that they go on from."""
    for request in requests if is_main() else ():
        for folder in (Path(request.config.output_dir), *([request.source] if request.source else [])):
            settle(folder)


def warn(spec: RunSpec) -> None:
    """Says on stderr what happened to the rows of tasks that are still to be learned: cut, empty, shared out again."""
    micro_batches = spec.arguments.gradient_accumulation_steps
    if micro_batches != int(spec.config.training.get("gradient_accumulation_steps", 1)):
        say(
            f"a step keeps its {spec.step_rows} rows: on {process_count()} processes "
            f"gradient_accumulation_steps is {micro_batches}"
        )
    to_come = spec.stages[len(spec.finished) :]
    if to_come and (old := unverified(spec.finished)):
        say(f"{', '.join(old)}: of a version that kept no hashes of files; unverified")
    for folder in spec.redone:
        say(f"{folder} and its scores are removed, to be learned again (--redo)")
    if not to_come:
        return
    for note in spec.notes:
        say(note)
    for data in (data for stage in to_come for data in stage.data):
        for warning in data.warnings():
            say(f"task {data.task.name}: {warning}")
    for warning in guard_warnings(spec.general, spec.tasks):
        say(f"general: {warning}")


def sizes_of(spec: RunSpec) -> list[float]:
    """What there is to learn of each stage, in rows times epochs, or in steps where those are given; 0 = nothing."""
    arguments = spec.arguments

    def size(stage: PlannedStage) -> float:
        if not stage.learn or stage.index < len(spec.finished):
            return 0.0
        if arguments.max_steps > 0:
            return float(arguments.max_steps)
        return len(stage.samples) * float(stage.num_train_epochs or arguments.num_train_epochs)

    return [size(stage) for stage in spec.stages]


def facts(spec: RunSpec) -> dict[str, Any]:
    """What all processes of a launch must agree on: the configuration, what it is resolved to, and what is done."""
    return {
        **spec.config.model_dump(mode="json"),
        "tasks": {stage.name: stage.identity() for stage in spec.stages},
        "identity": spec.identity,
        "versions": versions(spec),
        "finished stages": len(spec.finished),
    }


def start(spec: RunSpec, stack: ExitStack) -> None:
    """The main process takes the folder, for as long as the `stack` lasts, and begins the run. Raises InputError."""
    if is_main():
        stack.enter_context(locked(spec.run))
        check_settled(spec.run)
        if spec.finished:
            record = read_json(spec.finished[0].parents[1] / "run.json")
            if len(spec.finished) < len(spec.stages):
                for fault in check_whole(spec.finished, spec.stages, record, hashed=spec.verify):
                    say(f"{fault}; no later task needs it")
            else:
                for fault in faults(spec.finished, record, hashed=False, weights=()):
                    say(str(fault))
        begin(spec)


def check_shared(run: Path) -> None:
    """Every process writes its part into the folder of the run. Raises InputError where it cannot be seen."""
    if not (run / "run.json").is_file():
        raise InputError(f"output_dir: {run} is not where process 0 writes; give a folder that all machines share")


def begin(spec: RunSpec) -> None:
    """Writes run.json, and takes over the stages of the run that this one goes on from, where there are none yet."""
    source = None if (spec.run / "stages").is_dir() else spec.source
    known = [path.name for path in (*spec.finished, *spec.redone) if os.path.lexists(path)]
    if source is None and [path.name for path in finished_stages(spec.run)] != known:
        raise InputError(f"{spec.run}: another process has changed this run meanwhile; give the command again")
    if spec.redone:
        name_stages(spec.run, spec.finished)
        (spec.run / GRAFT_FILE).unlink(missing_ok=True)  # it names models that are to be others
        forget_rows(spec.run, 0 if spec.joint else len(spec.finished))
        forget_stages(spec.run, [stage_name(folder) for folder in spec.redone])
    for stage in reversed(spec.redone):
        remove_stage(stage)
    write_json(spec.run / "run.json", with_own_hash(describe_run(spec)))
    if source is not None:
        copy_run(source, spec.run)
        name_stages(spec.run, spec.finished)
    for stage in spec.finished:  # where a run was stopped between putting a stage in place and clearing up
        shutil.rmtree(spec.run / "working" / stage.name, ignore_errors=True)
    point_to_newest_model(spec.run)


def copy_run(source: Path, run: Path) -> None:
    """Copies answers and stages of a finished run, and of the weights those that the next task starts from.

    The stages come last and all at once: of a part of them the newest would have no weights.
    """
    answers = source / "predictions"
    if answers.is_dir() and not (run / "predictions").is_dir():
        partial = run / ".predictions.partial"
        clear_folder(partial)
        shutil.copytree(answers, partial)
        partial.rename(run / "predictions")
    for name in ("scores.json", GENERAL_FILE):
        if (source / name).exists() and not (run / name).exists():
            write_atomically(run / name, read_bytes(source / name))
    stages, partial = finished_stages(source), run / ".stages.partial"
    clear_folder(partial)
    for stage in stages:
        copy_stage(stage, partial / stage.name, weights=stage == stages[-1])
    partial.rename(run / "stages")
    sync(run)


def finish_stage(spec: RunSpec, book: ScoreBook) -> None:
    """Scores what can be scored by now, and only then drops older weights. All processes call it."""
    if is_main():
        point_to_newest_model(spec.run)
    book.fill(book.measurable(book.missing(spec.config.cells)))
    wait_for_all()  # none still reads them
    if is_main():
        drop_older_weights(finished_stages(spec.run), spec.config.keep_stages)
    wait_for_all()
