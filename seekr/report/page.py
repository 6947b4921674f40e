"""The page: everything about some runs in one HTML file that needs no network and no script."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from seekr.disk import check_no_part_of_a_run, write_atomically
from seekr.errors import InputError, say
from seekr.report import charts
from seekr.report.answer import Answer, answers
from seekr.report.check_run import MARKS, by_verdict
from seekr.report.comparison import differences
from seekr.report.estimate import Estimate, measured, scored
from seekr.report.facts import facts, unseen, unsure, weights_of
from seekr.report.folding import MANY, few, telling
from seekr.report.forgotten import Change
from seekr.report.general import general_lines
from seekr.report.grafting import caption, verdicts_of
from seekr.report.grafting import groups as grafts_of
from seekr.report.run_view import MatrixRow, matrix_rows, run_view, stages_shown
from seekr.report.score_map import score_map
from seekr.report.summary import MEASURES, Measure, MethodSummary, best, by_tasks, decimal, signed, summarize
from seekr.report.task_lines import PANEL, SPARK, Frame, task_line
from seekr.report.torn import in_few_lines, read_as_far_as_possible, score_faults
from seekr.runs.folder import left_out
from seekr.runs.run import Run

_DARKEST_CELL = 55  # per cent of the heat colour under a score of 100, so that the ink on it stays readable
_DIVISORS = {"backward_transfer": "(T − 1)", "backward_transfer_over_all_tasks": "T"}


@dataclass(frozen=True, slots=True)
class Column:
    """One measure of the methods' table; `best` is the summary whose lead is worth a mark."""

    heading: str
    divisor: str
    arrow: str
    cells: tuple[Estimate | None, ...]
    best: int | None


@dataclass(frozen=True, slots=True)
class Method:
    """What the page shows of all runs of a method; of each task that is drawn its drawing, score and change."""

    summary: MethodSummary
    answer: Answer | None
    lines: tuple[Markup, ...]
    finals: tuple[Estimate | None, ...]
    changes: tuple[Change | None, ...]
    mean: tuple[MatrixRow, ...]
    """The mean of the seeds' score matrices; none of a single run."""


@dataclass(frozen=True, slots=True)
class Group:
    """Methods that learned the same tasks."""

    tasks: tuple[str, ...]
    shown: tuple[str, ...]
    """Those that are drawn one by one."""
    answers: tuple[Answer, ...]
    methods: tuple[Method, ...]
    columns: tuple[Column, ...]
    strip: Markup
    notes: tuple[str, ...]


def write_report(runs: Sequence[Path], output: Path, *, title: str | None = None) -> Path:
    """Writes one self-contained HTML page about `runs`, folders of runs or of folders of runs, to `output`.

    The same runs give the same bytes; `output` is replaced as a whole or not at all. Files of a run that cannot be read
    are named on it, and so are runs that have lost their run.json, and scores that are not what was written. Returns
    `output`. Raises InputError where there is no run, its run.json cannot be read, or `output` cannot be written.
    """
    if not runs:
        raise InputError("no run to report on; give one run folder or more")
    output = Path(output)
    check_no_part_of_a_run(output, "--output")
    found = read_as_far_as_possible(runs)
    lost = left_out(runs)
    page = render(found, runs, title=title, faults=lost)
    if faults := in_few_lines([fault for run in found for fault in run.faults]):
        page = render(found, runs, title=title, faults=[*lost, *faults])
        for fault in faults:
            say(f"not on the page: {fault}")
    try:
        write_atomically(output, page.encode("utf-8", "replace").decode("utf-8"))  # answers may hold lone surrogates
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); give another --output") from error
    return output


def render(runs: Sequence[Run], given: Sequence[Path], *, title: str | None = None, faults: Sequence[str] = ()) -> str:
    """The page of `write_report` as text; `faults`: what is known to be missing on it."""
    groups = [summarize(group) for group in by_tasks(runs)]
    summaries = [summary for group in groups for summary in group]
    found = [_group(group) for group in groups]
    labels = {run.folder: f"{summary.label} · seed {run.seed}" for summary in summaries for run in summary.runs}
    return _template().render(
        title=title or _title(summaries, found),
        faults=faults,
        doubts=few([str(fault) for run in runs for fault in score_faults(run)]),
        groups=found,
        facts=list(facts(runs, given)),
        views=[run_view(run, labels[run.folder], number) for number, run in enumerate(runs, start=1)],
        several_seeds=any(len(summary.runs) > 1 for summary in summaries),
    )


def _title(summaries: Sequence[MethodSummary], found: Sequence[Group]) -> str:
    methods = list(dict.fromkeys(summary.runs[0].method for summary in summaries))
    many = f"{len(methods)} methods" if len(methods) > 1 else methods[0]
    if len(found) > 1:
        return f"Learning {len(found)} lists of tasks: {many}"
    count = len(found[0].tasks)
    return f"Learning {f'{count} tasks one after another' if count != 1 else 'one task'}: {many}"


def _group(summaries: Sequence[MethodSummary]) -> Group:
    found = answers(summaries)
    order = [answer.summary for answer in found]
    order += [summary for summary in summaries if summary not in order]
    frame = PANEL if len(order) == 1 else SPARK
    columns = [_column(order, measure) for measure in MEASURES]
    answer_of = {id(answer.summary): answer for answer in found}
    runs = [run for summary in summaries for run in summary.counted]
    whole = [run for run in runs if run.measure("overall_performance") is not None]
    places = telling(runs, MANY)
    return Group(
        summaries[0].tasks,
        tuple(summaries[0].tasks[place] for place in places),
        tuple(found),
        tuple(_method(summary, answer_of.get(id(summary)), places, frame) for summary in order),
        tuple(column for column in columns if any(column.cells) or column.heading == "Overall performance"),
        charts.strip_chart(order if len(runs) > 1 else [], "overall_performance", "Overall performance of every run"),
        (*differences(whole), *unseen(runs), *unsure(runs)),
    )


def _column(summaries: Sequence[MethodSummary], measure: Measure) -> Column:
    leader = best(summaries, measure)
    return Column(
        measure.heading,
        _DIVISORS.get(measure.field, ""),
        "higher is better" if measure.higher_is_better else "lower is better",
        tuple(measured(summary, measure.field) for summary in summaries),
        next((number for number, summary in enumerate(summaries) if summary is leader), None),
    )


def _method(summary: MethodSummary, answer: Answer | None, places: Sequence[int], frame: Frame) -> Method:
    if not summary.counted:
        return Method(summary, answer, (), (), (), ())
    count = len(summary.counted[0].scores.tasks)
    lines, finals = [], []
    for task in places:
        points = {after: one for after in range(count) if (one := scored(summary, after, task))}
        finals.append(points.get(count - 1))
        own = count - 1 if summary.joint else task
        said = ", ".join(f"{decimal(one.value)} after {after + 1}" for after, one in points.items())
        lines.append(task_line(points, count, own, f"{summary.tasks[task]}: {said or 'not measured'}", frame))
    mean = tuple(matrix_rows(summary)) if len(summary.counted) > 1 else ()
    changes = tuple(answer.changes[task] if answer and answer.changes else None for task in places)
    return Method(summary, answer, tuple(lines), tuple(finals), changes, mean)


def _with_code(text: str) -> Markup:
    """What stands between backticks is a command."""
    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))


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
        number=decimal, darkest=_DARKEST_CELL, levels=charts.LEVELS, legend_key=charts.legend_key, grafts_of=grafts_of,
        verdicts_of=verdicts_of, graft_caption=caption, graft_chart=charts.graft_chart, marks=MARKS,
        by_verdict=by_verdict,
        general_lines=general_lines, score_map=score_map, many=MANY, few=few, stages_shown=stages_shown,
        weights_of=weights_of, with_code=_with_code, signed=signed,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
