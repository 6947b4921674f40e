"""Drawings as inline SVG: head maps, curves over the optimizer steps, one dot for every seed.

Colours are CSS classes, so that one drawing serves light and dark. Every drawing has a text for those who
cannot see it, and nothing is shown by colour alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from seekr.report.summary import MethodSummary, decimal
from seekr.runs.grafted import Grafted
from seekr.runs.log import LogEntry
from seekr.runs.run import Run, Stage

LEVELS = 12
_WIDTH, _HEIGHT = 460, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 20, 24
_BUCKETS = 240
_MARKED = 12  # so few points are marked one by one


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over the steps of one kind: (step of the run, value) for each stage it occurs in."""

    kind: str
    name: str
    stages: tuple[tuple[np.ndarray, np.ndarray], ...]


def head_map(table: np.ndarray, heads: dict[int, list[int]], label: str) -> Markup:
    """`table` [layers, heads] from 0 (pale) to its largest entry (dark), the chosen heads outlined."""
    layers, width = table.shape
    cell = int(np.clip(min(300 // max(width, 1), 380 // max(layers, 1)), 9, 24))
    left, top = 30, 16
    largest = float(np.nanmax(table, initial=0.0))
    share = np.nan_to_num(table / largest) if largest > 0 else np.zeros_like(table)
    level = np.clip(np.rint(share * (LEVELS - 1)), 0, LEVELS - 1).astype(int)
    parts = []

    def squares(places: Iterable[Sequence[int]]) -> str:
        side = cell - 1
        return "".join(f"M{left + h * cell} {top + layer * cell}h{side}v{side}h-{side}z" for layer, h in places)

    for value in range(LEVELS):
        if filled := squares(np.argwhere(level == value).tolist()):
            parts.append(Markup('<path class="l{}" d="{}"/>').format(value, filled))
    if outlines := squares([(layer, h) for layer, chosen in heads.items() for h in chosen]):
        parts.append(Markup('<path class="halo" d="{0}"/><path class="chosen" d="{0}"/>').format(outlines))
    for h in range(0, width, max(1, math.ceil(26 / cell))):
        parts.append(svg_text(left + h * cell + cell / 2, top - 5, h, "middle"))
    for layer in range(0, layers, max(1, math.ceil(14 / cell))):
        parts.append(svg_text(left - 5, top + layer * cell + cell / 2 + 4, layer, "end"))
    return svg(left + width * cell + 4, top + layers * cell + 4, label, parts, fixed=True)


def curves_of(run: Run, numbers: Callable[[LogEntry], dict[str, float]]) -> list[Curve]:
    """The curves of a run's log: finite values, in order of appearance; steps from 1 over all stages."""
    points: dict[tuple[str, str], list[tuple[list[int], list[float]]]] = {}
    before, stages = 0, run.stages
    for position, stage in enumerate(stages):
        for entry in stage.log:
            for name, value in numbers(entry).items():
                if math.isfinite(value):
                    series = points.setdefault((entry.kind, name), [([], []) for _ in stages])[position]
                    series[0].append(before + entry.step)
                    series[1].append(value)
        before += _length(stage)
    return [
        Curve(kind, name, tuple((np.array(steps), np.array(values)) for steps, values in series if steps))
        for (kind, name), series in points.items()
    ]


def curve_chart(run: Run, curves: Sequence[Curve], label: str, *, share: bool = False) -> Markup:
    """Curves over the steps of a run, with the borders of its tasks.

    Long curves are means over a few steps, with the span of the values in the background. `share`: values 0..1 as per
    cent. Otherwise the axis is logarithmic, and says so, where nearly all values are positive and span more than a
    factor of 20; values below its lowest mark lie on it.
    """
    total = max(1, sum(_length(stage) for stage in run.stages))
    values = np.concatenate([values for curve in curves for _, values in curve.stages])
    if share:
        axis = _Axis([(t / 4, f"{25 * t}%") for t in range(5)], lambda value: _height(float(np.clip(value, 0, 1))))
    else:
        axis = _value_axis(values)
    parts = []
    for value, text in axis.ticks:
        height = axis.place(value)
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, height, _WIDTH - _RIGHT)
            + svg_text(_LEFT - 5, height + 4, text, "end")
        )
    if axis.log:
        parts.append(svg_text(_LEFT - 5, _TOP - 7, "log", "end"))
    parts.extend(_borders(run, total))
    for number, curve in enumerate(curves):
        for steps, series in curve.stages:
            parts.append(_line(steps, series, total, axis, number, bands=len(curves) == 1))
    return svg(_WIDTH, _HEIGHT, label + " (logarithmic axis)" * axis.log, parts)


def strip_chart(summaries: Sequence[MethodSummary]) -> Markup:
    """Overall performance, one row a method: a ring for every seed, a bar at their mean, a line over its 95% interval
    as far as the axis goes. Empty where nothing was measured."""
    spreads = [(summary, spread) for summary in summaries if (spread := summary.spread("overall_performance"))]
    if not spreads:
        return Markup("")
    values = [value for _, spread in spreads for value in spread.values]
    low, high = min(0.0, *values), max(values)
    ticks = _round_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    longest = max(len(summary.label) for summary, _ in spreads)
    left, right, row = min(250, 16 + 7 * longest), 56, 26
    width, bottom = left + 280 + right, 8 + row * len(spreads)
    scale = (width - left - right) / ((high - low) or 1.0)
    parts = []
    for tick in ticks:
        x = left + (tick - low) * scale
        parts.append(Markup('<path class="grid" d="M{:.1f} 6V{}"/>').format(x, bottom))
        parts.append(svg_text(x, bottom + 15, f"{tick:g}", "middle"))
    for number, (summary, spread) in enumerate(spreads):
        y = 8 + row * number + row / 2
        parts.append(svg_text(left - 10, y + 4, _cut(summary.label, 34), "end", "name"))
        for value in spread.values:
            parts.append(
                Markup('<circle class="seed" cx="{:.1f}" cy="{}" r="5"/>').format(left + (value - low) * scale, y)
            )
        x = left + (spread.mean - low) * scale
        if (half := spread.half) is not None:
            ends = [left + (np.clip(spread.mean + e, low, high) - low) * scale for e in (-half, half)]
            parts.append(Markup('<path class="error" d="M{:.1f} {}H{:.1f}"/>').format(ends[0], y, ends[1]))
        parts.append(Markup('<path class="mean" d="M{:.1f} {}v18"/>').format(x, y - 9))
        parts.append(svg_text(width - right + 10, y + 4, decimal(spread.mean), "start", "name"))
    return svg(width, bottom + 22, "Overall performance of every run", parts)


def graft_chart(tasks: Sequence[tuple[str, Sequence[Grafted]]], words: Sequence[str], label: str) -> Markup:
    """A block a task, scores from 0 to 100 across: a thin line down at the later model's own, a wide one at the
    donor's; for each set of heads, numbered as in `words`, a line from there to the score with the donor's maps.
    """
    left, row, gap = min(200, 16 + 7 * max(len(name) for name, _ in tasks)), 13, 10
    bottom = 8 + sum(gap + row * len(rows) for _, rows in tasks)
    parts = []
    for tick in range(0, 101, 25):
        parts.append(Markup('<path class="grid" d="M{} 6V{}"/>').format(left + 3 * tick, bottom))
        parts.append(svg_text(left + 3 * tick, bottom + 15, tick, "middle"))
    top = 8.0
    for name, rows in tasks:
        height = row * len(rows)
        parts.append(svg_text(left - 10, top + height / 2 + 4, _cut(name, 26), "end", "name"))
        for style, score in (("now", rows[0].own_score), ("mean", rows[0].donor_score)):
            parts.append(Markup('<path class="{}" d="M{:.1f} {}v{}"/>').format(style, left + 3 * score, top, height))
        for place, one in enumerate(rows):
            y, number = top + row * (place + 0.5), words.index(one.heads) % 4
            start, end = left + 3 * one.own_score, left + 3 * one.score
            parts.append(Markup('<path class="line s{}" d="M{:.1f} {:.1f}H{:.1f}"/>').format(number, start, y, end))
            parts.append(_mark(number, end, y))
        top += height + gap
    return svg(left + 320, bottom + 22, label, parts)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


@dataclass(frozen=True, slots=True)
class _Axis:
    ticks: list[tuple[float, str]]
    place: Callable[[float], float]
    log: bool = False


def _value_axis(values: np.ndarray) -> _Axis:
    positive = values[values > 0]
    if (
        positive.size >= 0.9 * values.size
        and positive.size
        and np.percentile(positive, 99) > 20 * np.percentile(positive, 1)
    ):
        bottom = math.floor(math.log10(np.percentile(positive, 1)))
        top = math.ceil(math.log10(positive.max()) - 1e-9)
        every = max(1, math.ceil((top - bottom) / 5))
        ticks = [(10.0**power, f"{10.0**power:g}") for power in range(bottom, top + 1, every)]

        def place(value: float) -> float:
            power = math.log10(value) if value > 0 else bottom
            return _height((max(power, bottom) - bottom) / max(1, top - bottom))

        return _Axis(ticks, place, log=True)
    marks = _round_ticks(min(0.0, float(values.min())), float(values.max()))
    low, high = min(marks[0], float(values.min())), max(marks[-1], float(values.max()))
    return _Axis([(m, f"{m:g}") for m in marks], lambda value: _height((value - low) / ((high - low) or 1.0)))


def _height(part: float) -> float:
    return _TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM)


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover low..high."""
    rough = max(high - low, 1e-12) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _length(stage: Stage) -> int:
    return max((entry.step for entry in stage.log), default=0)


def _across(step: float, total: int) -> float:
    return _LEFT + step / total * (_WIDTH - _LEFT - _RIGHT)


def _borders(run: Run, total: int) -> list[Markup]:
    """Where each of up to twenty tasks begins, or every so many, and its name where that fits, or else its number."""
    parts, before, stages = [], 0, run.stages
    every = 1 + (len(stages) - 1) // (20 if len(stages) < 100 else 10)
    for stage in stages:
        length = _length(stage)
        if not length or stage.index % every:
            before += length
            continue
        left, right = _across(before, total), _across(before + length * every, total)
        if before:
            parts.append(Markup('<path class="border" d="M{:.1f} {}V{}"/>').format(left, _TOP - 14, _HEIGHT - _BOTTOM))
        fits = int((right - left) // 7.4)
        name = _cut(stage.name, fits) if fits > 3 and every == 1 else str(stage.index + 1)
        place = (left + right) / 2 if every == 1 else left + 2
        parts.append(svg_text(place, _TOP - 7, name, "middle" if every == 1 else "start"))
        before += length
    parts.append(svg_text(_LEFT, _HEIGHT - 7, "1", "start"))
    parts.append(svg_text(_WIDTH - _RIGHT, _HEIGHT - 7, f"step {total}", "end"))
    return parts


def _line(steps: np.ndarray, values: np.ndarray, total: int, axis: _Axis, number: int, *, bands: bool) -> Markup:
    # buckets in proportion to the stage's share of the axis: the line is equally fine throughout
    span = int(steps[-1] - steps[0]) + 1
    count = min(len(steps), max(8, round(_BUCKETS * span / total)))
    buckets = [chunk for chunk in np.array_split(np.arange(len(steps)), count) if chunk.size]
    across = [f"{_across(float(steps[chunk].mean()), total):.1f}" for chunk in buckets]

    def heights(reduce: Callable[[np.ndarray], float]) -> list[str]:
        return [f"{axis.place(float(reduce(values[chunk]))):.1f}" for chunk in buckets]

    middle = heights(np.mean)
    points = [f"{x} {y}" for x, y in zip(across, middle, strict=True)]
    drawn = Markup("")
    if bands and count < len(steps):
        upper = [f"{x} {y}" for x, y in zip(across, heights(np.max), strict=True)]
        lower = [f"{x} {y}" for x, y in zip(across, heights(np.min), strict=True)]
        drawn += Markup('<path class="band" d="M{}z"/>').format("L".join(upper + lower[::-1]))
    if len(points) == 1 or (not bands and len(points) <= _MARKED):
        for x, y in zip(across, middle, strict=True):
            drawn += _mark(number, float(x), float(y))
    if len(points) == 1:
        return drawn
    return drawn + Markup('<path class="line s{}" d="M{}"/>').format(number, "L".join(points))


def legend_key(number: int) -> Markup:
    """The line and the mark of the curve `number` of a chart."""
    line = Markup('<path class="line s{}" d="M1 6H39"/>').format(number) + _mark(number, 20, 6)
    return Markup('<svg width="40" height="12" aria-hidden="true">{}</svg>').format(line)


def _mark(number: int, x: float, y: float) -> Markup:
    """A small disc, square, triangle or diamond, so that curves can be distinguished without their colour."""
    outline = ("m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "m-3-3h6v6h-6z", "m0-4l4 7h-8z", "m0-4l4 4l-4 4l-4-4z")[number % 4]
    return Markup('<path class="mark{}" d="M{:.1f} {:.1f}{}"/>').format(number % 4, x, y, outline)


def svg(width: float, height: float, label: str, parts: Sequence[Markup], *, fixed: bool = False) -> Markup:
    """A whole drawing; `label` is its text for those who cannot see it, `fixed` = it is not scaled to the page."""
    size = Markup(' width="{}" height="{}"').format(width, height) if fixed else Markup("")
    head = Markup('<svg viewBox="0 0 {} {}"{} role="img" aria-label="{}">').format(width, height, size, label)
    return Markup("").join([head, *parts, Markup("</svg>")])


def svg_text(x: float, y: float, text: object, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)
