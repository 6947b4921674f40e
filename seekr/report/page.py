"""The page: everything about some runs in one HTML file that needs no network and no script."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from seekr.disk.files import check_no_part_of_a_run, write_atomically
from seekr.errors import InputError, say
from seekr.report import charts
from seekr.report.answer import MethodResult, answers
from seekr.report.check_run import MARKS, by_verdict
from seekr.report.comparison import differences
from seekr.report.estimate import measured, scored
from seekr.report.examples import shorten
from seekr.report.facts import facts, unseen, unsure, weights_of
from seekr.report.folding import MANY, few, telling
from seekr.report.general import general_lines
from seekr.report.grafting import caption, verdicts_of
from seekr.report.grafting import groups as grafts_of
from seekr.report.run_view import matrix_rows, run_view, stages_shown
from seekr.report.score_map import score_map
from seekr.report.summary import MEASURES, Measure, MethodSummary, best, by_tasks, decimal, signed, summarize
from seekr.report.task_lines import PANEL, SPARK, Frame, task_line
from seekr.report.torn import in_few_lines, read_as_far_as_possible, score_faults
from seekr.runs.folder import left_out
from seekr.runs.run import Run

_DARKEST_CELL = 55  # per cent of the heat colour under a score of 100, so that the ink on it stays readable
_DIVISORS = {"backward_transfer": "(T − 1)", "backward_transfer_over_all_tasks": "T"}


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


def _title(summaries: Sequence[MethodSummary], found: Sequence[Mapping[str, Any]]) -> str:
    methods = list(dict.fromkeys(summary.runs[0].method for summary in summaries))
    many = f"{len(methods)} methods" if len(methods) > 1 else methods[0]
    if len(found) > 1:
        return f"Learning {len(found)} lists of tasks: {many}"
    count = len(found[0]["tasks"])
    return f"Learning {f'{count} tasks one after another' if count != 1 else 'one task'}: {many}"


def _group(summaries: Sequence[MethodSummary]) -> dict[str, Any]:
    """What the page shows of methods that learned the same tasks; `shown` are those that are drawn one by one."""
    found = answers(summaries)
    order = [answer.summary for answer in found]
    order += [summary for summary in summaries if summary not in order]
    frame = PANEL if len(order) == 1 else SPARK
    columns = [_column(order, measure) for measure in MEASURES]
    answer_of = {id(answer.summary): answer for answer in found}
    runs = [run for summary in summaries for run in summary.counted]
    whole = [run for run in runs if run.measure("overall_performance") is not None]
    places = telling(runs, MANY)
    return {
        "tasks": summaries[0].tasks,
        "shown": [summaries[0].tasks[place] for place in places],
        "answers": found,
        "methods": [_method(summary, answer_of.get(id(summary)), places, frame) for summary in order],
        "columns": [one for one in columns if any(one["cells"]) or one["heading"] == "Overall performance"],
        "strip": charts.strip_chart(order if len(runs) > 1 else []),
        "notes": [*differences(whole), *unseen(runs), *unsure(runs)],
    }


def _column(summaries: Sequence[MethodSummary], measure: Measure) -> dict[str, Any]:
    """One measure of the methods' table; `best` is the place of the summary whose lead is worth a mark."""
    leader = best(summaries, measure)
    return {
        "heading": measure.heading,
        "divisor": _DIVISORS.get(measure.field, ""),
        "arrow": "higher is better" if measure.higher_is_better else "lower is better",
        "cells": [measured(summary, measure.field) for summary in summaries],
        "best": next((number for number, summary in enumerate(summaries) if summary is leader), None),
    }


def _method(summary: MethodSummary, answer: MethodResult | None, places: Sequence[int], frame: Frame) -> dict[str, Any]:
    """What the page shows of all runs of a method: of each task that is drawn its drawing, score and change, and the
    `mean` of the seeds' score matrices, none of a single run."""
    about: dict[str, Any] = {"summary": summary, "answer": answer}
    if not summary.counted:
        return about | dict.fromkeys(("lines", "finals", "changes", "mean"), ())
    count = len(summary.counted[0].scores.tasks)
    lines, finals = [], []
    for task in places:
        points = {after: one for after in range(count) if (one := scored(summary, after, task))}
        finals.append(points.get(count - 1))
        own = count - 1 if summary.joint else task
        said = ", ".join(f"{decimal(one.value)} after {after + 1}" for after, one in points.items())
        lines.append(task_line(points, count, own, f"{summary.tasks[task]}: {said or 'not measured'}", frame))
    mean = list(matrix_rows(summary)) if len(summary.counted) > 1 else []
    changes = [answer.changes[task] if answer and answer.changes else None for task in places]
    return about | {"lines": lines, "finals": finals, "changes": changes, "mean": mean}


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
        weights_of=weights_of, shorten=shorten, with_code=_with_code, signed=signed,
    )  # fmt: skip
    return environment.get_template("page.html.j2")
