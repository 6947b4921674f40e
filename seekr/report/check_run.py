"""What `seekr check` shows: a line a task with what it lost, then answers that were right and are not any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import RenderableType
from rich.table import Table

from seekr.progress import Text
from seekr.report.folding import LINES, NAMED, few
from seekr.report.forgotten import FORGOTTEN, HELD, MAX_DROP, NOISE, NOTHING, PARTLY, SLIPPED, Change
from seekr.report.summary import decimal
from seekr.report.terminal import FirstThatFits, plain_table

_LONGEST = 160
NO_ANSWERS = "the answers that were scored are not all in predictions/, or the metric is no mean over rows"
MARKS = {HELD: "✓", NOTHING: "–", SLIPPED: "↘", PARTLY: "↘", FORGOTTEN: "✗"}
"""A sign before each verdict on a task that was scored again."""
_STYLES = {HELD: "green", PARTLY: "yellow", FORGOTTEN: "bold red"}


def renderables(found: Sequence[Change], *, most: float, examples: int, whole: bool) -> Iterator[RenderableType]:
    """The whole answer, from its one line down; of more than 20 tasks what was lost, unless it is to be `whole`."""
    lost = [change for change in found if change.verdict in (FORGOTTEN, PARTLY, SLIPPED)]
    shown = list(found) if whole or len(found) <= LINES else _by_drop(lost)[:LINES]
    yield Text(headline(found, most))
    others = Counter(change.verdict for change in found) - Counter(change.verdict for change in shown)
    yield FirstThatFits(*(partial(_changes_table, shown, others, errors=errors) for errors in (True, False)))
    if unsure := [change.task for change in found if change.drop is not None and change.error is None]:
        yield Text(f"no ± for {', '.join(few(unsure))}: {NO_ANSWERS}; a drop of more than {NOISE:g} counts")
    worse = [change for change in shown if change.over(most) and change.lost] if examples else []
    listed = worse if len(shown) == len(found) else worse[:NAMED]
    yield from (examples_of(change, examples) for change in listed)
    if len(shown) < len(found):
        yield Text("a line for every task, and examples of each that lost too much: --all; as data: --json")


def headline(found: Sequence[Change], most: float) -> str:
    """Such as "2 of 6 tasks lost more than 5 points: sort 99 → 72, add 76 → 36"; drops that chance explains apart."""
    over = [change for change in found if change.over(most)]
    maybe = [change for change in found if change not in over and change.drop is not None and change.drop > most]
    tasks = f"{len(found)} task{'s' * (len(found) != 1)}"
    surely = " beyond chance" if maybe else ""
    text = f"{len(over) or 'none'} of {tasks} lost more than {most:g} points{surely}"
    text += f": {_worst(over)}" if over else ""
    return text + (f"; within chance: {_worst(maybe)}" if maybe else "")


def _worst(found: Sequence[Change]) -> str:
    """In their order; of many those that lost most."""
    return ", ".join(few(list(map(_from_to, found if len(found) <= LINES else _by_drop(found)))))


def _by_drop(found: Sequence[Change]) -> list[Change]:
    return sorted(found, key=lambda change: -(change.drop or 0.0))


def _from_to(change: Change) -> str:
    return f"{change.task} {change.before:.0f} → {change.now:.0f}"


def kept_and_lost(found: Sequence[Change]) -> str:
    """Such as "slipped: sort 99 → 92; held: span, upper": nothing where no task was scored again."""
    return "; ".join(f"{verdict}: {', '.join(tasks)}" for verdict, tasks in by_verdict(found).items())


def by_verdict(found: Sequence[Change]) -> dict[str, list[str]]:
    """The tasks of each verdict, the worst first, with what they lost; not of those that were never scored again."""
    named = {}
    for verdict in (FORGOTTEN, PARTLY, SLIPPED, HELD):
        tasks = [change for change in found if change.verdict == verdict]
        if len(tasks) > LINES:  # those that lost most are named
            tasks = _by_drop(tasks)
        named[verdict] = few([_held(change) if verdict == HELD else _from_to(change) for change in tasks])
    return {verdict: tasks for verdict, tasks in named.items() if tasks}


def _held(change: Change) -> str:
    """Its name; a drop that few rows or seeds cannot tell from chance is not hidden behind the word."""
    return f"{_from_to(change)} (within chance)" if (change.drop or 0.0) > MAX_DROP else change.task


def _changes_table(found: Sequence[Change], others: Counter[str], *, errors: bool) -> Table:
    """Before, now and the drop with what it may be by chance; and how many `others` there are of each verdict. Narrow
    terminals do without the `errors`, which the verdict tells.
    """
    noise = "twice the standard error of the drop over the test rows"
    caption = f"± is {noise}; held: within that" if errors else f"held: the drop is within {noise}"
    table = plain_table("", caption, texts=["task"], numbers=["learned", "now", "drop", *["±"] * errors])
    table.add_column("", overflow="fold")
    for change in found:
        scores = ["" if value is None else decimal(value) for value in (change.before, change.now, change.drop)]
        error = ["" if change.error is None else decimal(change.noise)] if errors else []
        table.add_row(Text(change.task), *scores, *error, _verdict(change.verdict))
    for verdict, count in others.items():
        table.add_row(f"… {count} task{'s' * (count != 1)}", *[""] * (len(table.columns) - 2), _verdict(verdict))
    return table


def _verdict(verdict: str) -> Text:
    return Text(verdict, _STYLES.get(verdict, ""))


def examples_of(change: Change, count: int) -> Text:
    """The rows that lost most: asked, right, answered then, answered now."""
    lost = len(change.lost)
    worse = "1 answer is worse than it was" if lost == 1 else f"{lost} answers are worse than they were"
    text = Text(f"{change.task}: {worse}{f'; {count} of them' if count < lost else ''}", "bold")
    for row in change.lost[:count]:
        for name, value in (
            ("asked", row.prompt),
            ("right", " | ".join(row.right)),
            ("then", row.before),
            ("now", row.now),
        ):
            text.append(f"\n  {name:<7}", "dim")
            text.append(_end_of(value) or "(nothing)")
        text.append("\n")
    return text


def _end_of(text: str) -> str:
    """A text in a line: of a long one its end, since what the prompts of a task begin with is the same in all."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"… {line[-_LONGEST:]}"
