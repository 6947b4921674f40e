"""The page: everything about some runs in one HTML file that needs no network and no script."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from seekr.attention.weight import weight_advice
from seekr.disk import write_atomically
from seekr.errors import InputError
from seekr.report import charts
from seekr.report.examples import TaskExamples, choose_examples
from seekr.report.general import general_lines
from seekr.report.grafting import caption, groups, verdicts
from seekr.report.summary import MEASURES, Measure, MethodSummary, Spread, best, decimal, flatten, summarize
from seekr.runs.run import Run, Stage, read_runs

_OPEN_RUNS = 6
_DARKEST_CELL = 55  # per cent of the heat colour under a score of 100, so that the ink on it stays readable
_DIVISORS = {"backward_transfer": "(T − 1)", "backward_transfer_over_all_tasks": "T"}
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
class Column:
    """One measure of the methods' table; `best` is the summary whose lead is worth a mark."""

    heading: str
    divisor: str
    arrow: str
    cells: tuple[Spread | None, ...]
    best: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a score matrix; `own` is the column of the task just learned, or of the skill remembered."""

    after: str
    skill: bool
    own: int | None
    cells: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything the template shows of one run."""

    run: Run
    label: str
    anchor: str
    open: bool
    rows: tuple[Row, ...]
    importance: tuple[Figure, ...]
    other_tables: dict[str, tuple[Figure, ...]]
    losses: tuple[Figure, ...]
    share: Figure | None
    advice: str | None
    share_legend: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    examples: tuple[TaskExamples, ...]


def write_report(runs: Sequence[Path], output: Path, *, title: str | None = None) -> Path:
    """Writes one self-contained HTML page about `runs`, folders of runs or of folders of runs, to `output`.

    The same runs give the same bytes; `output` is replaced as a whole or not at all. Returns `output`. Raises
    InputError where there is no run, a file of one is torn, or `output` cannot be written.
    """
    if not runs:
        raise InputError("no run to report on; give one run folder or more")
    output = Path(output)
    page = render(read_runs(runs), title=title)
    try:
        write_atomically(output, page.encode("utf-8", "replace").decode("utf-8"))  # answers may hold lone surrogates
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); give another --output") from error
    return output


def render(runs: Sequence[Run], *, title: str | None = None) -> str:
    """The page of `write_report` as text."""
    summaries = summarize(runs)
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    labels = {run.folder: summary.label for summary in summaries for run in summary.runs}
    columns = [_column(summaries, measure) for measure in MEASURES]
    finals = {task: [summary.final(task) for summary in summaries] for task in tasks}
    return _template().render(
        title=title or _title(summaries, tasks),
        summaries=summaries,
        tasks=tasks,
        columns=[column for column in columns if any(column.cells) or column.heading == "Overall performance"],
        finals={task: row for task, row in finals.items() if any(row)},
        strip=charts.strip_chart(summaries, "overall_performance", "Overall performance of every run"),
        views=[_view(run, labels[run.folder], number, len(runs)) for number, run in enumerate(runs)],
        several_seeds=any(len(summary.runs) > 1 for summary in summaries),
    )


def _title(summaries: Sequence[MethodSummary], tasks: Sequence[str]) -> str:
    methods = list(dict.fromkeys(summary.runs[0].method for summary in summaries))
    many = f"{len(methods)} methods" if len(methods) > 1 else methods[0]
    what = f"{len(tasks)} tasks one after another" if len(tasks) != 1 else "one task"
    return f"Learning {what}: {many}"


def _column(summaries: Sequence[MethodSummary], measure: Measure) -> Column:
    leader = best(summaries, measure)
    return Column(
        measure.heading,
        _DIVISORS.get(measure.field, ""),
        "higher is better" if measure.higher_is_better else "lower is better",
        tuple(summary.spread(measure.field) for summary in summaries),
        next((number for number, summary in enumerate(summaries) if summary is leader), None),
    )


def _view(run: Run, label: str, number: int, total: int) -> RunView:
    shares = charts.curves_of(run, lambda entry: entry.gradient_share if len(entry.gradient_share) > 1 else {})
    share = None
    if shares:
        share = Figure("Share of the gradient norm", charts.curve_chart(run, shares, "Gradient share", share=True))
    others = {text: _head_maps(run, name) for name, text in _TABLES.items()}
    return RunView(
        run=run,
        label=f"{label} · seed {run.seed}",
        anchor=f"run-{number + 1}",
        open=total <= _OPEN_RUNS,
        rows=tuple(_matrix_rows(run)),
        importance=_head_maps(run, "importance"),
        other_tables={text: figures for text, figures in others.items() if figures},
        losses=tuple(_loss_figures(run)),
        share=share,
        advice=weight_advice(run.record["config"]["method"].get("attention_weight"), run.attention_drift),
        share_legend=tuple(curve.name for curve in shares),
        settings=tuple((key, _plain(value)) for key, value in flatten(run.record).items()),
        examples=tuple(choose_examples(run)),
    )


def _matrix_rows(run: Run) -> Iterable[Row]:
    if run.scored is None:
        return
    skills = {stage.name for stage in run.stages if not stage.trained}
    if any(score is not None for score in run.scored.base):
        yield Row("nothing yet", False, None, tuple(run.scored.base))
    if run.joint:
        yield Row("all at once", False, None, tuple(run.final.values()))
        return
    for number, (task, row) in enumerate(zip(run.scored.tasks, run.scored.matrix, strict=True)):
        if any(score is not None for score in row):
            yield Row(task, task in skills, number, tuple(row))


def _head_maps(run: Run, name: str) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            stage.name,
            charts.head_map(stage.importance[name], stage.heads, _map_label(stage, name)),
            _map_note(stage, name),
        )
        for stage in run.stages
        if name in stage.importance and stage.importance[name].size
    )


def _map_label(stage: Stage, name: str) -> str:
    layers, heads = stage.importance[name].shape
    return f"{name} of {layers} layers by {heads} heads for {stage.name}"


def _map_note(stage: Stage, name: str) -> str:
    table = stage.importance[name]
    if not np.isfinite(table).any():
        return "no finite entry"
    layer, head = np.unravel_index(np.nanargmax(table), table.shape)
    return f"largest: {table[layer, head]:.3g} in layer {layer}, head {head}"


def _loss_figures(run: Run) -> Iterable[Figure]:
    for curve in charts.curves_of(run, lambda entry: entry.parts):
        title = _PARTS.get(curve.name, f"{curve.name} ({curve.kind} steps)")
        last = float(curve.stages[-1][1][-1])
        yield Figure(
            title,
            charts.curve_chart(run, [curve], f"{title} over the optimizer steps"),
            f"at the end: {last:.3g}",
        )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("seekr.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=decimal, darkest=_DARKEST_CELL, levels=charts.LEVELS, legend_key=charts.legend_key, groups=groups,
        verdicts=verdicts, graft_caption=caption, graft_chart=charts.graft_chart,
        general_lines=general_lines,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
