"""One line a task over the stages of a run, as inline SVG: many small drawings on the same axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup

from seekr.report.charts import svg, svg_text
from seekr.report.estimate import Estimate
from seekr.report.folding import MANY


@dataclass(frozen=True, slots=True)
class Frame:
    """Width and height of a drawing, and whether its axes have numbers."""

    width: int
    height: int
    axes: bool

    @property
    def left(self) -> int:
        return 28 if self.axes else 5

    @property
    def bottom(self) -> int:
        return self.height - (18 if self.axes else 5)

    def place(self, stage: float, score: float, stages: int) -> tuple[float, float]:
        """Where a score after a stage, both counted from 0, lies."""
        across = stage / max(1, stages - 1) * (self.width - self.left - 8)
        return self.left + 2 + across, self.bottom - score / 100 * (self.bottom - 6)


PANEL = Frame(210, 110, axes=True)
SPARK = Frame(124, 44, axes=False)


def task_line(points: Mapping[int, Estimate], stages: int, own: int, label: str, frame: Frame) -> Markup:
    """Scores of a task, 0 to 100 up, after each stage in `points`, across; a thin bar is the error of each.
    More than 40 scores are a line alone.

    Before `own`, the stage that learned it, the line is thin; where stages between two scores were not measured it is
    dashed.
    """
    places = {stage: frame.place(stage, one.value, stages) for stage, one in sorted(points.items())}
    parts = _axes(stages, frame)
    for style, steps in groupby(pairwise(places), key=lambda step: _style(step[0], step[1], own)):
        (first, second), *others = steps
        ends = [places[stage] for stage in (first, second, *(last for _, last in others))]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in ends)
        parts.append(Markup('<path class="{}" d="M{}"/>').format(style, line))
    for stage, (x, y) in places.items() if len(places) <= MANY else ():
        one = points[stage]
        if one.error:
            low, high = (
                frame.place(stage, min(100, max(0, one.value + e)), stages)[1] for e in (-one.error, one.error)
            )
            parts.append(Markup('<path class="error" d="M{:.1f} {:.1f}V{:.1f}"/>').format(x, low, high))
        parts.append(Markup('<circle class="mark0" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(x, y))
    return svg(frame.width, frame.height, label, parts)


def _style(stage: int, following: int, own: int) -> str:
    return "line now" if following <= own else "line s0" if following == stage + 1 else "line s0 gap"


def _axes(stages: int, frame: Frame) -> list[Markup]:
    parts = []
    for score in (0, 50, 100):
        _, y = frame.place(0, score, stages)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(frame.left, y, frame.width - 4))
        if frame.axes:
            parts.append(svg_text(frame.left - 4, y + 4, score, "end"))
    every = 1 + (stages - 1) // (10 if stages < 20 else 6 if stages < 100 else 5)
    for stage in range(0, stages, every) if frame.axes else ():
        x, y = frame.place(stage, 0, stages)
        parts.append(svg_text(x, y + 14, stage + 1, "middle"))
    return parts
