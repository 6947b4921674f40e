"""What a grafting study found, in the graft.json of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from seekr.errors import InputError
from seekr.runs.study import read_study, write_study
from seekr.scoring.uncertainty import error_of_alike

GRAFT_FILE = "graft.json"
ALL, SELECTED, RANDOM = "all", "selected", "random"
_ORDER = (ALL, SELECTED, RANDOM)


@dataclass(frozen=True)
class Grafted:
    """One task, answered with the maps of one set of heads put in; scores are 0 to 100.

    Attributes:
        task: whose test rows.
        donor, model: the stages whose maps were put in, and which answered.
        heads: which heads: all, selected, random, or layers=a-b.
        count: how many heads these are.
        seeds: of the draws of random heads, whose mean score counts; none of other heads.
        rows: test rows.
        donor_score, own_score: of the donor and of the model, each by itself.
        score: of the model with the donor's maps.
        error: standard error of the gain over the test rows, each compared with itself; None = the metric may be no
            mean over rows.
    """

    task: str
    donor: str
    model: str
    heads: str
    count: int
    seeds: tuple[int, ...]
    rows: int
    donor_score: float
    own_score: float
    score: float
    error: float | None

    @property
    def lost(self) -> float:
        return self.donor_score - self.own_score

    @property
    def gain(self) -> float:
        return self.score - self.own_score

    @property
    def question(self) -> tuple[str, ...]:
        """What was asked: a later answer to it takes the place of this one."""
        return self.task, self.donor, self.model, self.heads

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lost": self.lost, "gain": self.gain}


def read_grafted(run: Path) -> tuple[Grafted, ...]:
    """What was found of a run so far; nothing where no study was made. Raises InputError where it cannot be read."""
    path, mend = run / GRAFT_FILE, f"delete it and run `seekr graft {run}`"
    if (content := read_study(run, GRAFT_FILE, mend)) is None:
        return ()
    try:
        return tuple(_grafted(row) for row in content["rows"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not the result of a grafting study ({error!r}); {mend}") from None


def add_grafted(run: Path, found: Sequence[Grafted], stages: Sequence[str]) -> None:
    """Adds what was found to what a run has already; sorted by the order of its `stages`."""
    rows = {one.question: one for one in (*read_grafted(run), *found)}

    def place(one: Grafted) -> tuple[Any, ...]:
        heads = _ORDER.index(one.heads) if one.heads in _ORDER else len(_ORDER)
        return *(stages.index(name) for name in (one.task, one.donor, one.model)), heads, one.heads

    in_order = [one.to_json() for one in sorted(rows.values(), key=place)]
    write_study(run, GRAFT_FILE, {"rows": in_order})


def _grafted(row: dict[str, Any]) -> Grafted:
    known = {field.name: row[field.name] for field in fields(Grafted)}
    scores = {name: float(known[name]) for name in ("donor_score", "own_score", "score")}
    error = known["error"]
    if error is not None:  # earlier versions wrote 0 where all rows were alike
        error = float(error) or error_of_alike(max(1, int(known["rows"])))
    return Grafted(
        **known | scores | {"error": error, "seeds": tuple(map(int, known["seeds"])), "count": int(known["count"])}
    )
