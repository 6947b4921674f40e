"""What a run and its base model score on general tasks of lm-evaluation-harness, in its general.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from seekr.errors import InputError
from seekr.runs.study import read_study, write_study

GENERAL_FILE = "general.json"


@dataclass(frozen=True)
class GeneralScore:
    """What one model scored on one task.

    Attributes:
        task: a task, group or tag of the harness.
        stage: whose model answered; None = the base model.
        metric: the first that the harness gives of the task; of a tag, whose tasks have one in common, their mean.
        score: in the harness's own scale, mostly 0 to 1.
        error: standard error of the score; None = the harness gives none, or it is a mean over a tag.
        rows: how many were answered.
        version: of the harness, and of the task in it: scores of others are not to be compared.
    """

    task: str
    stage: str | None
    metric: str
    score: float
    error: float | None
    rows: int
    version: str


@dataclass(frozen=True)
class GeneralChange:
    """The base model's score on a task, and that of the newest stage that was scored by the same version of it."""

    before: GeneralScore
    now: GeneralScore

    def __str__(self) -> str:
        return f"{self.before.task} {self.before.score:.3f} → {self.now.score:.3f} ({self.before.metric})"


def read_general(run: Path) -> tuple[GeneralScore, ...]:
    """What was measured of a run so far. Raises InputError where it cannot be read."""
    path, mend = run / GENERAL_FILE, f"delete it and run `seekr evaluate {run} --general TASK` again"
    if (content := read_study(run, GENERAL_FILE, mend)) is None:
        return ()
    try:
        content = content["scores"] if isinstance(content, dict) else content  # a list in earlier versions
        found = [GeneralScore(**{field.name: row[field.name] for field in fields(GeneralScore)}) for row in content]
        if not all(isinstance(one.score, float | int) for one in found):
            raise TypeError("a score is no number")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the scores of general tasks ({error!r}); {mend}") from None
    return tuple(found)


def write_general(run: Path, found: Sequence[GeneralScore]) -> None:
    write_study(run, GENERAL_FILE, {"scores": [asdict(one) for one in found]})


def forget_stages(run: Path, stages: Sequence[str]) -> None:
    """Drops what models scored that are gone."""
    if (run / GENERAL_FILE).exists():
        write_general(run, [one for one in read_general(run) if one.stage not in stages])


def general_changes(found: Sequence[GeneralScore], stages: Sequence[str]) -> list[GeneralChange]:
    """A change for each task that the base model and one of the `stages`, in their order, were scored on."""
    changes = []
    for base in (one for one in found if one.stage is None):
        same = {one.stage: one for one in found if (one.task, one.version) == (base.task, base.version)}
        newest = next((same[stage] for stage in reversed(stages) if stage in same), None)
        if newest is not None:
            changes.append(GeneralChange(base, newest))
    return changes
