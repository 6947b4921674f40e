"""Figures for papers: the same numbers as the page, each as SVG, PDF and PNG, by matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seekr.disk.files import check_no_part_of_a_run, write_atomically
from seekr.errors import InputError
from seekr.report.estimate import Estimate, measured, scored
from seekr.report.folding import MANY, telling
from seekr.report.run_view import stages_shown
from seekr.report.summary import MethodSummary, by_tasks, decimal, summarize
from seekr.report.torn import read_as_far_as_possible
from seekr.runs.run import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 6.3
"""Inches: the text of a page of most conferences."""
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts that journals take
    "svg.hashsalt": "seekr",  # the same numbers give the same bytes
    "savefig.dpi": 300,
}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, which the colour-blind can tell apart."""
_MARKERS, _LINES = "os^Dv<>", ("-", "--", "-.", ":")
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
Named = tuple[str, "Figure"]


def check_figures(folder: Path | None) -> None:
    """Raises InputError where the figures that are asked for could not be drawn, or not be written."""
    if folder is None:
        return
    if find_spec("matplotlib") is None:
        raise InputError("--figures: matplotlib is not installed; pip install 'seekr-continual[figures]' does it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--figures: {folder} is a file; give a folder")
    check_no_part_of_a_run(folder, "--figures")


def write_figures(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Draws the figures of `runs`, folders of runs or of folders of runs, into `folder`.

    Of methods that learned the same tasks: each task over the stages, overall performance, the mean score matrix of
    each, and the heads of each run. Figures of the same name are replaced. Returns the SVG files. Raises InputError
    where matplotlib is missing, there is no run, a file of one is torn, or `folder` cannot be written.
    """
    check_figures(folder)
    from matplotlib import rc_context

    groups = [summarize(group) for group in by_tasks(read_as_far_as_possible(runs))]
    written = []
    with rc_context(_STYLE):
        for number, summaries in enumerate(groups, start=1):
            last = f"-{number}" if len(groups) > 1 else ""
            for name, figure in _figures(summaries):
                plain = re.sub(r"[^\w-]+", "-", name).replace("--", "-").strip("-")
                path = folder / f"{plain}{last}.svg"
                while path in written:  # labels that differ in signs alone
                    path = path.with_stem(f"{path.stem}-")
                _write(figure, path)
                written.append(path)
    return written


def _write(figure: Figure, path: Path) -> None:
    for form, metadata in _METADATA.items():
        content = BytesIO()
        figure.savefig(content, format=form, metadata=metadata)
        try:
            write_atomically(path.with_suffix(f".{form}"), content.getvalue())
        except OSError as error:
            raise InputError(f"--figures: {path.parent} cannot be written ({error.strerror})") from error


def _figures(summaries: Sequence[MethodSummary]) -> Iterator[Named]:
    counted = [summary for summary in summaries if summary.counted]
    if counted:
        yield "stages", _stages(counted)
    if any(measured(summary, "overall_performance") for summary in counted):
        yield "performance", _performance(counted)
    for summary in counted:
        yield f"matrix-{summary.label}", _matrix(summary)
    for summary in summaries:
        for run in summary.runs:
            stages = [stage for stage in stages_shown(run) if stage.importance.get("importance", np.empty(0)).size]
            if stages:
                yield f"heads-{summary.label}-seed-{run.seed}", _heads(stages)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(count: int, columns: int, height: float, more: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in rows of this height, and what is above and below them."""
    rows = math.ceil(count / columns)
    figure = _figure(_WIDTH, rows * height + more)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _stages(summaries: Sequence[MethodSummary]) -> Figure:
    """A panel a task: its score after each stage, a line a method; joint, which has one stage, as a level."""
    places = telling([run for summary in summaries for run in summary.counted], MANY)
    tasks = [summaries[0].tasks[place] for place in places]
    figure, panels = _panels(len(tasks), min(3, len(tasks)), 1.5, 0.4)
    stages = len(summaries[0].tasks)
    for task, name, axes in zip(places, tasks, panels, strict=True):
        axes.set_title(name)
        axes.set_ylim(-3, 103)
        axes.set_xticks(range(1, stages + 1, max(1, stages // MANY * 10)))
        axes.grid(axis="y", alpha=0.3)
        for place, summary in enumerate(summaries):
            found = {after: one for after in range(stages) if (one := scored(summary, after, task))}
            _line(axes, {after + 1: one for after, one in found.items()}, place, summary)
    figure.supxlabel("tasks learned")
    figure.supylabel("score")
    if len(summaries) > 1:
        lines, labels = panels[0].get_legend_handles_labels()
        columns = min(len(labels), max(1, 90 // (max(map(len, labels)) + 8)))  # characters of a line, in this size
        figure.legend(lines, labels, loc="outside upper center", ncols=columns)
    return figure


def _line(axes: Axes, points: dict[int, Estimate], place: int, summary: MethodSummary) -> None:
    style: dict[str, Any] = {"color": _COLOURS[place % len(_COLOURS)], "label": summary.label}
    if summary.joint:
        axes.axhline(next((one.value for one in points.values()), math.nan), linestyle=":", **style)
        return
    style |= {"marker": _MARKERS[place % len(_MARKERS)], "linestyle": _LINES[place % len(_LINES)]}
    errors = [one.error or 0.0 for one in points.values()]
    axes.errorbar(list(points), [one.value for one in points.values()], yerr=errors, elinewidth=0.7, **style)


def _performance(summaries: Sequence[MethodSummary]) -> Figure:
    """A line a method: the mean with its error, and a ring for every seed."""
    found = [(summary, one) for summary in summaries if (one := measured(summary, "overall_performance"))]
    longest = max(len(summary.label) for summary, _ in found)
    figure = _figure(min(_WIDTH, 2.4 + 0.06 * longest), 0.28 * len(found) + 0.6)
    axes = figure.subplots()
    for place, (summary, one) in enumerate(found):
        spread = summary.spread("overall_performance")
        values = spread.values if spread and len(spread.values) > 1 else ()
        axes.errorbar(one.value, place, xerr=one.error or 0.0, fmt="|", markersize=9, color=_COLOURS[1])
        axes.plot(values, [place] * len(values), "o", markerfacecolor="none", color=_COLOURS[0])
    axes.set_yticks(range(len(found)), [summary.label for summary, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("overall performance")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _matrix(summary: MethodSummary) -> Figure:
    """Row: after which task, column: the score of a task then, the mean over the seeds; blank where not measured.

    Of many tasks colours alone, and the numbers of tasks.
    """
    tasks = summary.tasks
    rows = [len(tasks) - 1] if summary.joint else list(range(len(tasks)))
    cells = [[scored(summary, after, task, by_rows=False) for task in range(len(tasks))] for after in rows]
    many = len(tasks) > MANY
    figure = _figure(min(_WIDTH, 0.55 * len(tasks) + 1.2), min(0.34 * len(rows) + 0.8, _WIDTH if many else math.inf))
    axes = figure.subplots()
    values = np.array([[math.nan if one is None else one.value for one in row] for row in cells])
    place = (0.5, len(tasks) + 0.5, len(rows) + 0.5, 0.5) if many else None
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto", extent=place)
    if many:
        axes.set_xlabel("task")
    else:
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                colour = "white" if value > 60 else "black"
                axes.text(column, row, decimal(value), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(tasks)), list(tasks), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), ["all at once"] if summary.joint else list(tasks))
    axes.set_ylabel("after")
    axes.spines[:].set_visible(False)
    return figure


def _heads(stages: Sequence[Stage]) -> Figure:
    """A map a stage: importance as a share of its largest, the chosen heads outlined."""
    columns = min(6, len(stages))
    layers, heads = stages[0].importance["importance"].shape
    height = min(max(_WIDTH / columns * layers / heads, 0.8) + 0.3, 4.0)
    figure, panels = _panels(len(stages), columns, height, 0.3)
    for stage, axes in zip(stages, panels, strict=True):
        table = stage.importance["importance"]
        largest = float(np.nanmax(table, initial=0.0)) or 1.0
        axes.imshow(table / largest, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for layer, chosen in stage.heads.items():
            for head in chosen:
                x, y = [head - 0.5, head + 0.5], [layer - 0.5, layer + 0.5]
                axes.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=_COLOURS[1], lw=0.8)
        axes.set_title(stage.name)
    figure.supxlabel("head")
    figure.supylabel("layer")
    return figure
