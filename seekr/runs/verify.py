"""Is a run as it was written? Every file against its hash, every number against what it follows from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seekr.config.secrets import secrets_of
from seekr.data.finished import read_predictions
from seekr.disk.files import SMALL, Fault
from seekr.errors import InputError, RunError
from seekr.runs.answered_by import answered_by_faults
from seekr.runs.exchange import STOPPED, is_unsettled
from seekr.runs.folder import finished_stages, stage_name
from seekr.runs.general_tasks import GENERAL_FILE, read_general
from seekr.runs.grafted import GRAFT_FILE, read_grafted
from seekr.runs.kept_scores import KeptScores
from seekr.runs.manifest import faults, lost_stages, record_faults, standing_faults, unverified
from seekr.runs.plain_parts import plain_parts
from seekr.runs.run import Run
from seekr.scoring.cells import BASE, GENERAL, cell_name
from seekr.scoring.extra import check_packages
from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood, likelihood
from seekr.scoring.matrix import ScoreMatrix
from seekr.scoring.metrics import METRICS
from seekr.training.checkpoints import (
    checkpoint_faults,
    checkpoints_of,
    is_marked,
    log_fault,
    newest_complete_checkpoint,
)

_SAME = 1e-6
_PLAIN = "in plain text, though run.json says encrypt: true"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written, or, where it is no `fault`, that cannot be known to be."""

    text: str
    mend: str
    fault: bool = True


def verify(run: Run) -> list[Finding]:
    """What is wrong in the folder of a run; nothing in it is changed. Raises InputError where run.json is broken."""
    if is_unsettled(run.folder):  # all else follows from it
        return [Finding(f"{run.folder}: {STOPPED}", "so do `seekr learn` and `seekr evaluate`; then look again")]
    record = run.record
    try:
        stages = finished_stages(run.folder)
    except RunError as error:
        return [Finding(str(error), "the order of the stages decides what each was learned from")]
    found = [Finding(str(it), "its settings are what it was learned by") for it in _record_faults(run)]
    lost = lost_stages(run.folder, record)
    wrong = [*standing_faults(run.folder, record), *faults(stages, record, hashed=True, weights=stages)]
    found += [Finding(str(it), _mend(it, [*stages, *lost])) for it in wrong]
    for name in unverified(stages, run.record):
        found.append(
            Finding(
                f"{run.folder / 'stages' / name}: of a version that kept no hashes",
                "nothing can be said of its files",
                False,
            )
        )
    for folder in _working(run):
        torn = [it for path in checkpoints_of(folder) if is_marked(path) for it in checkpoint_faults(path, hashed=True)]
        found += [Finding(str(it), "it is passed over, and the one before it is gone on with") for it in torn]
        found += [Finding(str(it), "no later task needs it; what can be read is kept") for it in _log_faults(folder)]
    found += _plain(run)
    found += [Finding(str(it), "no model needs it, tables and pages do") for it in _study_faults(run.folder)]
    evaluate = f"`seekr evaluate {run.folder}` mends it as far as the weights are there"
    found += [one if isinstance(one, Finding) else Finding(one, evaluate) for one in _scores(run)]
    return found


def quick_faults(folder: Path) -> Iterator[Fault]:
    """What is seen to be wrong in the folder of a run without reading large files.

    Raises InputError where run.json cannot be read: all else is held against it.
    """
    if is_unsettled(folder):
        yield Fault(folder, STOPPED)
        return
    run = Run(folder)
    record = run.record
    try:
        stages = finished_stages(run.folder)
    except RunError:
        return  # whoever shows the run says so
    yield from _record_faults(run)
    yield from standing_faults(run.folder, record)
    yield from faults(stages, record, hashed=False, weights=())
    for folder in _working(run):
        for checkpoint in checkpoints_of(folder):
            yield from checkpoint_faults(checkpoint, hashed=False)
        yield from _log_faults(folder)
    yield from _lost_scores(run.folder)
    if _are_shown(run):
        kept, wrong = _read_scores(run, stages)
        yield from wrong
        yield from () if kept is None else _answer_faults(run, kept, hashed=False)
    yield from _study_faults(run.folder)
    if since := plain_parts(run)[1]:
        yield Fault(run.folder / since[0], f"{_PLAIN}{_and_more(since)}")


def _lost_scores(run: Path) -> Iterator[Fault]:
    path = run / "scores.json"
    if not path.is_file() and any((run / "predictions").glob("*.jsonl")):
        state = "no file" if path.exists() else "missing"
        yield Fault(path, f"{state}, though answers are there; `seekr evaluate {run}` makes it")


def _are_shown(run: Run) -> bool:
    """False where the scores cannot be read at all, as whoever shows them says."""
    try:
        return run.scored is not None
    except InputError:
        return False


def _read_scores(run: Run, stages: Sequence[Path]) -> tuple[KeptScores | None, list[Fault]]:
    """What scores.json, which is there, says, None where it cannot be read; and what is wrong with it."""
    path = run.folder / "scores.json"
    try:
        kept = KeptScores.parse(path)
    except InputError as error:
        return None, [_as_fault(path, error)]
    again = "`seekr evaluate` makes scores again where answers or weights are there"
    found = [] if kept.whole else [Fault(path, f"not what was written; {again}")]
    return kept, [*found, *answered_by_faults(path, kept.models, stages, run.record, len(kept.matrix.tasks))]


def _as_fault(path: Path, error: InputError) -> Fault:
    """What an error says of a file that it names."""
    return Fault(path, str(error).removeprefix(str(path)).lstrip(":, "))


def _answer_faults(run: Run, kept: KeptScores, *, hashed: bool) -> Iterator[Fault]:
    """Whether the answers are those that were scored, of which scores.json has the hashes; `hashed`: large ones too."""
    for row, column in _cells(kept.matrix):
        cell = cell_name(row, column)
        file = run.folder / "predictions" / f"{cell}.jsonl"
        if not file.is_file():
            state = "no file" if os.path.lexists(file) else "missing"
            yield Fault(file, f"{state}, and scores.json has {kept.matrix.score(row, column):.2f} of it")
        elif (hashed or file.stat().st_size <= SMALL) and kept.are_others(file):
            yield Fault(file, "not the answers that were scored")


def _study_faults(run: Path) -> Iterator[Fault]:
    """Whether what was measured besides can be read; what is not there was not measured."""
    for name, read in ((GENERAL_FILE, read_general), (GRAFT_FILE, read_grafted)):
        try:
            read(run)
        except InputError as error:
            yield _as_fault(run / name, error)


def _record_faults(run: Run) -> Iterator[Fault]:
    path = run.folder / "run.json"
    yield from record_faults(run.record, path)
    for what in secrets_of(run.record.get("config")):
        yield Fault(path, f"{what}; remove it there, and have another one made: it may have been seen")


def _mend(fault: Fault, stages: list[Path]) -> str:
    stage = next((stage for stage in stages if fault.lies_in(stage)), None)
    if stage is None:
        return "bring the stages back from a copy"
    again = f"or learn {stage_name(stage)} and what comes after it again (--redo {stage_name(stage)})"
    if fault.lies_in(stage / "model") and stage != stages[-1]:
        return f"no later task needs it, only its scores and exports do: bring it back from a copy, {again}"
    if fault.lies_in(stage / "log.jsonl"):
        return f"tables and pages alone need it: bring it back from a copy, {again}"
    return f"bring it back from a copy, {again}"


def _working(run: Run) -> list[Path]:
    return sorted((run.folder / "working").glob("*"))


def _log_faults(folder: Path) -> Iterator[Fault]:
    checkpoint = newest_complete_checkpoint(folder)
    if checkpoint is not None and (fault := log_fault(checkpoint, folder / "log.jsonl")) is not None:
        yield fault


def _plain(run: Run) -> Iterator[Finding]:
    before, since = plain_parts(run)
    again = "--redo STAGE learns what is kept again, and `seekr evaluate` makes answers again that are deleted"
    for parts, mend in ((before, "kept before encryption began, and stays so"), (since, again)):
        if parts:
            yield Finding(f"{run.folder / parts[0]}: {_PLAIN}{_and_more(parts)}", mend, parts is since)


def _scores(run: Run) -> Iterator[str | Finding]:
    """What scores.json has that does not follow from the answers, or from its own matrix."""
    path = run.folder / "scores.json"
    if not path.exists():
        yield from map(str, _lost_scores(run.folder))
        return
    kept, wrong = _read_scores(run, finished_stages(run.folder))
    yield from map(str, wrong)
    if kept is None:
        return
    matrix, content = kept.matrix, run.scores_json
    for name, value in matrix.to_json().items():
        if not _same(content.get(name), value):
            yield f"{path}: {name} is {content.get(name)}, and {value} by its matrix"
    named = {fault.path: fault for fault in _answer_faults(run, kept, hashed=True)}
    yield from map(str, named.values())
    locked: list[str] = []
    for row, column in _cells(matrix):
        cell = cell_name(row, column)
        file = run.folder / "predictions" / f"{cell}.jsonl"
        had, metric = matrix.score(row, column), matrix.metric(column)
        if file in named:
            continue
        if (gone := kept.removed.get(cell)) is not None:
            yield Finding(f"predictions/{cell}.jsonl: {gone} answers were taken back", "its score stays", False)
        elif not _computable(metric):
            yield Finding(f"{file}: scored by {metric}", "what it gives is not computed again", False)
        else:
            try:
                score = _score(file, metric)
            except InputError as error:  # without the key
                locked.append(str(error))
                continue
            if score is None or not _same(score, had):
                yield f"{file}: its answers give {score}, and scores.json has {had}"
    if locked:
        yield Finding(f"{locked[0]}{_and_more(locked)}", "scores were not computed again from these answers", False)


def _and_more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _computable(metric: str | None) -> bool:
    """Whether it is seekr's own (code of who made the run is not run), and the packages that it needs are there."""
    try:
        check_packages(metric)
    except InputError:
        return False
    return metric in (*METRICS, LIKELIHOOD)


def _score(file: Path, metric: str | None) -> float | None:
    rows = read_predictions(file)
    try:
        if rows and metric == LIKELIHOOD:
            return likelihood([RowLikelihood(row["log_likelihood"], row["answer_tokens"]) for row in rows])
        if rows and metric is not None:
            texts = [row["prediction"] for row in rows], [row.get("compared", row["references"]) for row in rows]
            return METRICS[metric](*texts, [row["prompt"] for row in rows])
    except (KeyError, TypeError, InputError):
        pass  # of another kind of metric
    return None


def _cells(matrix: ScoreMatrix) -> Iterator[tuple[int, int]]:
    for row in range(BASE, len(matrix.tasks)):
        for column in range(GENERAL, len(matrix.tasks)):
            if matrix.score(row, column) is not None:
                yield row, column


def _same(one: object, other: object) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other) <= _SAME
    return one == other
