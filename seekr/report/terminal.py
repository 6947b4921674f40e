"""The same numbers for a terminal: rich renderables that fit 80 columns and say nothing by colour alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

from seekr.progress import Text
from seekr.report.blocks import Blocks
from seekr.report.folding import LINES, part, telling
from seekr.report.summary import MEASURES, SPREAD, best, decimal, summarize
from seekr.runs.run import Run, Stage
from seekr.scoring.matrix import ScoreMatrix

_SHORT = {
    "overall_performance": "overall\nperformance",
    "backward_transfer": "backward\ntransfer",
    "backward_transfer_over_all_tasks": "the same\n÷ all tasks",
    "forgetting": "forgetting\n",
    "forward_transfer": "forward\ntransfer",
}
HEADS = "importance in tenths of the largest: # is the largest, · less than half a tenth; * is chosen"
"""What the digits and signs of `heads_table` are."""
_SCORE_CAPTION = "row: after which task; column: the score of a task then"


class FirstThatFits:
    """Of several forms of one table the first that the width allows; the last one in any case."""

    def __init__(self, *forms: Callable[[], RenderableType]) -> None:
        self.forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(width=10_000)
        for form in self.forms[:-1]:
            if Measurement.get(console, unlimited, form()).maximum <= options.max_width:
                yield form()
                return
        last = self.forms[-1]()
        yield Blocks(last) if isinstance(last, Table) else last


def methods_table(runs: Sequence[Run]) -> RenderableType:
    """Methods side by side; several seeds as mean ± half of its 95% interval, * for a lead worth naming.

    Narrow terminals do without the second backward transfer (÷ all tasks), which the first one implies, and the
    narrowest without the steps.
    """
    return FirstThatFits(
        lambda: _methods(runs, []),
        lambda: _methods(runs, ["backward_transfer_over_all_tasks"]),
        lambda: _methods(runs, ["backward_transfer_over_all_tasks", "steps"]),
    )


def score_table(run: Run) -> RenderableType:
    """The score matrix: row = after a task, column = a task, blank = not measured; by number where narrow.

    Of more than 20 tasks those that tell most.
    """
    if run.scored is None:
        return Text("nothing scored yet")
    places = telling([run], LINES)
    scores = part(run.scored, places)
    numbers = [str(place + 1) for place in places]
    named = [f"{number} {task}" for number, task in zip(numbers, scores.tasks, strict=True)]
    headings = [f"{task}\n{metric or 'not scored'}" for task, metric in zip(scores.tasks, scores.metrics, strict=True)]
    legend = ", ".join(named)
    return FirstThatFits(
        partial(_scores, run, scores, headings, scores.tasks, _SCORE_CAPTION),
        partial(_scores, run, scores, numbers, named, legend if run.joint else _SCORE_CAPTION),
        partial(_scores, run, scores, numbers, numbers, legend, narrow=True),
    )


def heads_table(stage: Stage) -> RenderableType:
    """Layers down, heads across, as `HEADS` says. More heads than the terminal is wide come in several blocks."""
    if "importance" not in stage.importance:
        return Text(f"{stage.name}: its method measures no heads")
    return _HeadGrid(stage)


def memory_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What is kept of each task: the `Memory.summary()` of every stage."""
    counted = ("samples", "tokens", "answer\ntokens", "heads", "layers", "queries")
    table = plain_table("Kept of each task", texts=["task"], numbers=counted)
    table.add_column("forms", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for summary in summaries:
        counts = (summary[key] for key in ("samples", "tokens", "answer_tokens", "heads", "layers", "queries"))
        table.add_row(
            Text(str(summary["task"])),
            *("" if count is None else f"{count:,}" for count in counts),
            Text(", ".join(map(str, summary["forms"]))),
            readable_bytes(summary["bytes"]),
        )
    if len(summaries) > 1:
        samples, tokens, answer_tokens, size = (
            sum(summary[key] for summary in summaries) for key in ("samples", "tokens", "answer_tokens", "bytes")
        )
        table.add_section()
        totals = (f"{samples:,}", f"{tokens:,}", f"{answer_tokens:,}", "", "", "", "", readable_bytes(size))
        table.add_row("together", *totals, style="bold")
    return table


def readable_bytes(count: int) -> str:
    """Three digits and a decimal unit: 1234567 is "1.23 MB"."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    digits = 0 if units[0] == "bytes" else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {units[0]}"


def plain_table(
    title: str,
    caption: str | None = None,
    *,
    texts: Sequence[str] = (),
    words: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> Table:
    """A table without lines but one under its head. Columns of `texts` come first and are folded, others are not."""
    table = Table(
        title=Text(title),
        caption=Text(caption) if caption else None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for heading in texts:
        table.add_column(Text(heading), overflow="fold")
    for heading in words:
        table.add_column(Text(heading), no_wrap=True)
    for heading in numbers:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _methods(runs: Sequence[Run], left_out: Sequence[str]) -> Table:
    summaries = summarize(runs)
    shown = [measure for measure in MEASURES if measure.field not in left_out]
    shown = [measure for measure in shown if any(summary.spread(measure.field) for summary in summaries)]
    leaders = {measure.field: best(summaries, measure) for measure in shown}
    notes = []
    if any(len(summary.runs) > 1 for summary in summaries):
        notes.append(SPREAD)
    if any(leaders.values()):
        notes.append("* leads every other method that learns in turn")
    if any(summary.unfinished for summary in summaries):
        notes.append("… not finished")
    table = plain_table("Methods side by side", "; ".join(notes))
    table.add_column("method", overflow="fold", min_width=10)
    table.add_column("seeds", justify="right", overflow="fold", min_width=5)
    for measure in shown:
        table.add_column(_SHORT[measure.field], justify="right", no_wrap=True)
    if "steps" not in left_out:
        table.add_column("steps\n(replay)", justify="right", no_wrap=True)
    for summary in summaries:
        cells = []
        for measure in shown:
            spread, leads = summary.spread(measure.field), leaders[measure.field] is summary
            cells.append(Text(f"{spread or ''}{'*' if leads else ' '}", "bold green" if leads else ""))
        taken, replayed = summary.steps(), summary.steps("replay")
        steps = f"{taken.mean:,.0f} ({replayed.mean:,.0f})" if taken and replayed else ""
        name = Text(summary.label + (" …" if summary.unfinished else ""))
        row: list[str | Text] = [name, ", ".join(map(str, summary.seeds)), *cells, steps]
        table.add_row(*row[: len(table.columns)])
    return table


def _scores(
    run: Run, scores: ScoreMatrix, headings: Sequence[str], names: Sequence[str], caption: str, *, narrow: bool = False
) -> Table:
    if (left := len(run.tasks) - len(scores.tasks)) > 0:
        caption += f"; {left} tasks between are in scores.json: these are the first, the last, and those that lost most"
    table = plain_table(f"Scores of {run.method}, seed {run.seed}", caption, words=["after"], numbers=headings)
    rows: list[tuple[str, int | None, Sequence[float | None]]] = []
    if any(score is not None for score in scores.base):
        rows.append(("–", None, scores.base))
    if run.joint:
        rows.append(("all", None, [run.final[task] for task in scores.tasks]))
    else:
        rows.extend((name, own, row) for own, (name, row) in enumerate(zip(names, scores.matrix, strict=True)))
    for name, own, row in rows:
        cells = [
            Text("" if score is None else decimal(score), "bold" if column == own else "")
            for column, score in enumerate(row)
        ]
        table.add_row(Text(name), *cells)
    if narrow:
        table.padding = 0
        table.columns[0].header = ""
    return table


class _HeadGrid:
    """Two or three characters a head, in as many equal blocks of heads as the width asks for."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.importance = stage.importance["importance"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layers, heads = self.importance.shape
        margin = len(str(max(layers - 1, 0))) + len("layer  ")
        cell = 3 if margin + 3 * heads <= options.max_width else 2
        room = max(4, (options.max_width - margin) // cell)
        blocks = -(-heads // room)
        edges = np.linspace(0, heads, blocks + 1).round().astype(int).tolist()
        chosen = sum(map(len, self.stage.heads.values()))
        where = f"{chosen} chosen, in {len(self.stage.heads)} of {layers} layers"
        yield Text(f"Heads after {self.stage.name}: {where}", "italic")
        yield Group(*(self._block(first, last, margin, cell) for first, last in pairwise(edges)))

    def _block(self, first: int, last: int, margin: int, cell: int) -> RenderableType:
        largest = float(np.nanmax(self.importance, initial=0.0))
        lines = [
            Text(" " * margin + "".join(str(head).ljust(2 * cell) for head in range(first, last, 2)).rstrip(), "dim")
        ]
        for layer, row in enumerate(self.importance):
            chosen = self.stage.heads.get(layer, ())
            line = Text(f"layer {layer}".ljust(margin), "dim")
            for head in range(first, last):
                share = float(np.nan_to_num(row[head] / largest)) if largest > 0 else 0.0
                tenth = round(10 * share)
                mark = "#" if tenth >= 10 else str(tenth) if tenth else "·"
                line.append(
                    (mark + "*" * (head in chosen)).ljust(cell), "bold not dim green" if head in chosen else "not dim"
                )
            line.rstrip()
            lines.append(line)
        return Text("\n").join(lines)
