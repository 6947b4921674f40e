"""What is shown of a run of more tasks than anybody reads one by one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby

from seekr.runs.run import Run
from seekr.scoring.matrix import ScoreMatrix

MANY = 40
"""Tasks up to which the page draws each of them."""
LINES = 20
"""Tasks up to which a terminal has a line or a column for each."""
NAMED = 5
"""Of more than that, how many are named."""
_ENDS, _WORST = 3, 6


def telling(runs: Sequence[Run], most: int, tasks: Sequence[str] | None = None) -> list[int]:
    """Places of the tasks to show, in their order: all, or of more than `most` the first and last three that were
    scored, and the six that lost most in one of the runs. `tasks`: those that all runs have; None = they learned the
    same ones."""
    matrices = [run.scores for run in runs if not run.joint] or [run.scores for run in runs]
    names = (matrices[0].tasks if matrices else ()) if tasks is None else tasks
    count = len(names)
    if count <= most:
        return list(range(count))
    lost = [max(_lost(one, one.tasks.index(name)) for one in matrices) for name in names]
    known = [place for place in range(count) if lost[place] > -math.inf]
    ends = {*known[:_ENDS], *known[-_ENDS:]}
    inner = sorted(set(known) - ends, key=lambda place: -lost[place])
    return sorted(ends | set(inner[:_WORST]))


def _lost(scores: ScoreMatrix, place: int) -> float:
    """Points since the task was learned; of 100 where that was not measured, as in a joint run."""
    known = [score for row in scores.matrix[place:] if (score := row[place]) is not None]
    own = scores.matrix[place][place]
    return -math.inf if not known else (100.0 if own is None else own) - known[-1]


def part(scores: ScoreMatrix, places: Sequence[int]) -> ScoreMatrix:
    """The rows and columns of some tasks."""

    def of(values: Sequence) -> list:
        return [values[place] for place in places]

    return ScoreMatrix(of(scores.tasks), of(scores.metrics), of(scores.base), [of(row) for row in of(scores.matrix)])


def few(names: Sequence[str]) -> list[str]:
    """Names to say in a line: of more than 20 the first five, and how many more there are."""
    return list(names) if len(names) <= LINES else [*names[:NAMED], f"and {len(names) - NAMED} more"]


def stretches(states: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Place and length of each line: of more than 20 states, those inside a long stretch of the same share a line."""
    place = 0
    for _, same in groupby(states):
        length = len(list(same))
        inner = length - 2 * _ENDS
        if len(states) <= LINES or inner < 2:
            yield from ((place + offset, 1) for offset in range(length))
        else:
            yield from ((place + offset, 1) for offset in range(_ENDS))
            yield place + _ENDS, inner
            yield from ((place + _ENDS + inner + offset, 1) for offset in range(_ENDS))
        place += length
