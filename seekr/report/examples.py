"""A few answers of each task worth reading: what was kept, what was forgotten, what was never learned."""

from dataclasses import dataclass

from seekr.report.folding import MANY, telling
from seekr.runs.log import ScoredAnswer
from seekr.runs.run import Run

_LONGEST_TEXT = 600
_PER_OUTCOME = 2


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """`after` names the task after which the newest answers were given; of each row the answer just after its task was
    learned (None: not scored), and the newest."""

    task: str
    metric: str | None
    after: str
    rows: tuple[tuple[ScoredAnswer | None, ScoredAnswer], ...]

    @property
    def compared(self) -> bool:
        return any(learned for learned, _ in self.rows)


def choose_examples(run: Run) -> list[TaskExamples]:
    """For every task with answers, or those that tell most, the first two test rows of each outcome, wrong now first.

    Raises InputError.
    """
    if run.scored is None:
        return []
    chosen, cells = [], run.cells
    newest_of = {column: row for row, column in sorted(cells)}
    for column in telling([run], MANY):
        task, metric = run.scored.tasks[column], run.scored.metrics[column]
        last = newest_of.get(column)
        if last is None or last >= len(run.scored.tasks):
            continue
        newest = run.answers(last, column)
        if not newest:
            continue
        learned = run.answers(column, column) if last != column and (column, column) in cells else []
        outcomes: dict[tuple[bool, bool | None], list[tuple[ScoredAnswer | None, ScoredAnswer]]] = {}
        for number, answer in enumerate(newest):
            earlier = learned[number] if number < len(learned) else None
            if earlier is not None and earlier.prompt != answer.prompt:
                earlier = None
            outcome = outcomes.setdefault((answer.right, earlier.right if earlier else None), [])
            if len(outcome) < _PER_OUTCOME:
                outcome.append((earlier, answer))
        order = sorted(outcomes, key=lambda outcome: (outcome[0], not outcome[1]))
        rows = tuple(pair for outcome in order for pair in outcomes[outcome])
        chosen.append(TaskExamples(task, metric, run.scored.tasks[last], rows))
    return chosen


def shorten(text: str) -> str:
    """Long texts without their middle: prompts say what is asked at either end."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]} … [{len(text) - 2 * half} characters left out] … {text[-half:]}"
