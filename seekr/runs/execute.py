"""The life of a run: prepared, begun, stage after stage, scored. Stopped anywhere, it goes on from there."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seekr.data.clock import now
from seekr.disk import read_json, sync, write_atomically, write_json
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import is_main, of_main, process_count, wait_for_all
from seekr.errors import InputError, RunError
from seekr.modeling.loading import one_kind_of_bar
from seekr.runs.folder import (
    copy_stage,
    drop_older_weights,
    finished_stages,
    point_to_newest_model,
    remove_stage,
    stage_folder,
)
from seekr.runs.grafted import FILE as GRAFTED
from seekr.runs.lock import locked
from seekr.runs.manifest import unverified
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.record import describe_run, versions
from seekr.runs.run import Run
from seekr.runs.scores import ScoreBook
from seekr.runs.standing import check_whole


def run_request(request: Request) -> Run:
    """Checks a request, then does what is still to do of it. Raises InputError, RunError, KeyboardInterrupt."""
    from seekr.runs.stage import build_stage

    request = replace(request, began=of_main(request.began or now()))
    prepared = agreed(lambda: prepare(request), facts)
    if is_main():
        warn(prepared)
    try:
        with one_kind_of_bar(), ExitStack() as stack:
            agreed(lambda: start(prepared, stack))
            agreed(lambda: check_shared(prepared.run))
            book = ScoreBook(prepared)
            if prepared.redone:
                book.write()  # without the scores of stages that are gone
            for stage in prepared.stages:
                if not stage_folder(prepared.run, stage.index, stage.name).is_dir():
                    build_stage(prepared, stage)
                finish_stage(prepared, book)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what was learned is kept in {prepared.run}, and the same command goes on from there"
        ) from None
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory ({str(error).splitlines()[0]}); what was finished is kept in {prepared.run}. A smaller "
            "training.per_device_train_batch_size with a larger gradient_accumulation_steps is the same training"
        ) from None
    return Run(prepared.run)


def warn(prepared: RunSpec) -> None:
    """Says on stderr what happened to the rows of tasks that are still to be learned: cut, empty, shared out again."""
    micro_batches = prepared.arguments.gradient_accumulation_steps
    if micro_batches != int(prepared.config.training.get("gradient_accumulation_steps", 1)):
        print(
            f"seekr: a step keeps its {prepared.step_rows} rows: on {process_count()} processes "
            f"gradient_accumulation_steps is {micro_batches}",
            file=sys.stderr,
        )
    if len(prepared.finished) < len(prepared.stages) and (old := unverified(prepared.finished)):
        print(
            f"seekr: {', '.join(stage.name for stage in old)}: of a version that kept no hashes of files; unverified",
            file=sys.stderr,
        )
    for folder in prepared.redone:
        print(f"seekr: {folder} and its scores are removed, to be learned again (--redo)", file=sys.stderr)
    for note in prepared.notes if len(prepared.finished) < len(prepared.stages) else ():
        print(f"seekr: {note}", file=sys.stderr)
    for stage in prepared.stages[len(prepared.finished) :]:
        for data in stage.data:
            for warning in data.warnings():
                print(f"seekr: task {data.task.name}: {warning}", file=sys.stderr)


def facts(prepared: RunSpec) -> dict[str, Any]:
    """What all processes of a launch must agree on: the configuration, what it is resolved to, and what is done."""
    return {
        **prepared.config.model_dump(mode="json"),
        "tasks": {stage.name: stage.identity() for stage in prepared.stages},
        "identity": prepared.identity,
        "versions": versions(prepared),
        "finished stages": len(prepared.finished),
    }


def start(prepared: RunSpec, stack: ExitStack) -> None:
    """The main process takes the folder, for as long as the `stack` lasts, and begins the run. Raises InputError."""
    if is_main():
        stack.enter_context(locked(prepared.run))
        if prepared.finished and len(prepared.finished) < len(prepared.stages):
            home = prepared.finished[0].parents[1]
            record = read_json(home / "run.json")
            for fault in check_whole(prepared.finished, prepared.stages, record, hashed=prepared.verify):
                print(f"seekr: {fault}; no later task needs it", file=sys.stderr)
        begin(prepared)


def check_shared(run: Path) -> None:
    """Every process writes its part into the folder of the run. Raises InputError where it cannot be seen."""
    if not (run / "run.json").is_file():
        raise InputError(f"output_dir: {run} is not where process 0 writes; give a folder that all machines share")


def begin(prepared: RunSpec) -> None:
    """Writes run.json, and copies the stages of the run that this one goes on from, as far as they are not there."""
    imports = prepared.source is not None and not (prepared.run / "stages").is_dir()
    known = [path.name for path in (*prepared.finished, *prepared.redone)]
    if not imports and [path.name for path in finished_stages(prepared.run)] != known:
        raise InputError(f"{prepared.run}: another process has changed this run meanwhile; give the command again")
    if prepared.redone:  # it names models that are to be others
        (prepared.run / GRAFTED).unlink(missing_ok=True)
    for stage in reversed(prepared.redone):
        remove_stage(stage)
    write_json(prepared.run / "run.json", describe_run(prepared))
    if prepared.source is not None and imports:
        copy_run(prepared.source, prepared.run)
    for stage in prepared.finished:  # where a run was stopped between putting a stage in place and clearing up
        shutil.rmtree(prepared.run / "working" / stage.name, ignore_errors=True)
    point_to_newest_model(prepared.run)


def copy_run(source: Path, run: Path) -> None:
    """Copies answers and stages of a finished run, and of the weights those that the next task starts from.

    The stages come last and all at once: of a part of them the newest would have no weights.
    """
    if links := [path for path in (source / "predictions").glob("*") if path.is_symlink()]:
        raise InputError(f"{links[0]}: is a link, and copying would take what it leads to; put the file itself there")
    if (source / "predictions").is_dir() and not (run / "predictions").is_dir():
        partial = run / ".predictions.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source / "predictions", partial)
        partial.rename(run / "predictions")
    if (source / "scores.json").is_file() and not (run / "scores.json").is_file():
        write_atomically(run / "scores.json", (source / "scores.json").read_text(encoding="utf-8"))
    stages, partial = finished_stages(source), run / ".stages.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for stage in stages:
        copy_stage(stage, partial / stage.name, weights=stage == stages[-1])
    partial.rename(run / "stages")
    sync(run)


def finish_stage(prepared: RunSpec, book: ScoreBook) -> None:
    """Scores what can be scored by now, and only then drops older weights. All processes call it."""
    if is_main():
        point_to_newest_model(prepared.run)
    book.fill(book.measurable(book.missing(prepared.config.cells)))
    wait_for_all()  # none still reads them
    if is_main():
        drop_older_weights(finished_stages(prepared.run), prepared.config.keep_stages)
    wait_for_all()
