"""What the page shows of one run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from seekr.attention.weight import weight_advice
from seekr.config.secrets import without_secrets
from seekr.report import charts
from seekr.report.estimate import Estimate, scored
from seekr.report.examples import choose_examples
from seekr.report.folding import MANY, telling
from seekr.report.summary import MethodSummary, flatten
from seekr.runs.run import Run, Stage

_TABLES = {
    "sensitivity": "Sensitivity: how strongly the answer loss depends on each head's attention map",
    "change": "Change: how far training on the task moved each head's attention map",
}
_PARTS = {
    "task": "Task loss",
    "replay": "Replay loss",
    "logit": "Logit distillation",
    "attention": "Attention distillation",
}


@dataclass(frozen=True, slots=True)
class Figure:
    title: str
    drawing: Markup
    note: str = ""


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One row of a score matrix; `own` is the column of the task just learned, or of the skill remembered."""

    after: str
    skill: bool
    own: int | None
    cells: tuple[Estimate | None, ...]


def run_view(run: Run, label: str, number: int) -> dict[str, Any]:
    """Everything the template shows of one run; `number` counts the runs of the page, from 1.

    Raises InputError where a file of the run is torn.
    """
    shares = charts.curves_of(run, lambda entry: entry.gradient_share if len(entry.gradient_share) > 1 else {})
    share = None
    if shares:
        share = Figure("Share of the gradient norm", charts.curve_chart(run, shares, "Gradient share", share=True))
    others = {text: _head_maps(run, name) for name, text in _TABLES.items()}
    return {
        "run": run,
        "label": label,
        "anchor": f"run-{number}",
        "rows": list(matrix_rows(MethodSummary(label, (run,)))),
        "importance": _head_maps(run, "importance"),
        "other_tables": {text: figures for text, figures in others.items() if figures},
        "losses": list(_loss_figures(run)),
        "share": share,
        "advice": weight_advice(run.record["config"]["method"].get("attention_weight"), run.attention_drift),
        "share_legend": [curve.name for curve in shares],
        "settings": [(key, _plain(value)) for key, value in flatten(without_secrets(run.record)).items()],
        "examples": choose_examples(run),
    }


def matrix_rows(summary: MethodSummary) -> Iterable[MatrixRow]:
    """The score matrix of a run, or the mean of those of its seeds."""
    if not summary.counted:
        return
    scores = summary.counted[0].scores
    skills = {stage.name for stage in summary.counted[0].stages if not stage.trained}
    places = range(len(scores.tasks))
    base = [None if score is None else Estimate(score, None) for score in scores.base]
    if any(base) and len(summary.counted) == 1:
        yield MatrixRow("nothing yet", False, None, tuple(base))
    for after in places[-1:] if summary.joint else places:
        cells = tuple(scored(summary, after, task, by_rows=len(places) <= MANY) for task in places)
        if summary.joint:
            yield MatrixRow("all at once", False, None, cells)
        elif any(cells):
            yield MatrixRow(scores.tasks[after], scores.tasks[after] in skills, after, cells)


def stages_shown(run: Run) -> list[Stage]:
    """All finished stages, or those of the tasks that tell most."""
    if len(run.stages) <= MANY or run.scored is None:
        return run.stages
    names = {run.scored.tasks[place] for place in telling([run], MANY)}
    return [stage for stage in run.stages if stage.name in names]


def _head_maps(run: Run, name: str) -> tuple[Figure, ...]:
    figures = []
    for stage in stages_shown(run):
        if (table := stage.importance.get(name)) is not None and table.size:
            label = f"{name} of {table.shape[0]} layers by {table.shape[1]} heads for {stage.name}"
            figures.append(Figure(stage.name, charts.head_map(table, stage.heads, label), _map_note(table)))
    return tuple(figures)


def _map_note(table: np.ndarray) -> str:
    if not np.isfinite(table).any():
        return "no finite entry"
    layer, head = np.unravel_index(np.nanargmax(table), table.shape)
    return f"largest: {table[layer, head]:.3g} in layer\u00a0{layer}, head\u00a0{head}"


def _loss_figures(run: Run) -> Iterable[Figure]:
    for curve in charts.curves_of(run, lambda entry: entry.parts):
        title = _PARTS.get(curve.name, f"{curve.name} ({curve.kind} steps)")
        last = float(curve.stages[-1][1][-1])
        yield Figure(
            title, charts.curve_chart(run, [curve], f"{title} over the optimizer steps"), f"at the end: {last:.3g}"
        )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
