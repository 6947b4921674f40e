"""What `seekr graft` found, for people: a line a task and set of heads, and whether maps carry what was lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from rich.console import RenderableType
from rich.table import Table

from seekr.progress import Text
from seekr.report.summary import decimal, signed
from seekr.report.terminal import FirstThatFits, plain_table
from seekr.runs.grafted import ALL, RANDOM, SELECTED, Grafted
from seekr.runs.run import Run

_IN = {ALL: "in all heads", SELECTED: "in the selected heads", RANDOM: "in as many random ones"}


Group = tuple[str, list[Grafted]]
"""All that was found of one task between two models, and how it is called."""


def groups(found: Sequence[Grafted]) -> list[Group]:
    """In the order given; the models are named where they are not the task's own and the one later model."""
    keys = dict.fromkeys((one.task, one.donor, one.model) for one in found)
    usual = {one.model for one in found if one.donor == one.task}
    result = []
    for task, donor, model in keys:
        rows = [one for one in found if (one.task, one.donor, one.model) == (task, donor, model)]
        plain = donor == task and len(usual) == 1
        result.append((task if plain else f"{task} ({donor} → {model})", rows))
    return result


def caption(found: Sequence[Grafted], *, errors: bool = True) -> str:
    """What the columns of a table are."""
    seeds = sorted({seed for one in found for seed in one.seeds})
    parts = [
        "then: the task's score by the model whose maps are put in",
        "now: by the later model",
        "graft: by the later model with these maps and its own values",
        f"random: the mean over draws by seeds {', '.join(map(str, seeds))}" if seeds else "",
        "±: twice the standard error of the gain over the test rows" if errors else "",
    ]
    return "; ".join(filter(None, parts))


def grafted_table(found: Sequence[Grafted]) -> RenderableType:
    """The scores of each task, then one line a set of heads; narrow terminals do without the error."""
    return FirstThatFits(lambda: _table(found, errors=True), lambda: _table(found, errors=False))


def _table(found: Sequence[Grafted], *, errors: bool) -> Table:
    table = plain_table(
        "Old attention maps in the later model",
        caption(found, errors=errors),
        texts=["task", "heads"],
        numbers=["then", "now", "graft", "gain", *["±"] * errors],
    )
    for name, rows in groups(found):
        for place, one in enumerate(rows):
            scores = ("", "") if place else (decimal(one.donor_score), decimal(one.own_score))
            error = "" if one.error is None else decimal(2 * one.error)
            numbers = (*scores, decimal(one.score), signed(one.gain), *([error] if errors else []))
            table.add_row(Text("" if place else name), Text(f"{one.heads} {one.count}"), *numbers)
    return table


def verdicts(found: Sequence[Grafted], *, stages: Sequence[str], held: bool) -> Iterator[str]:
    """How much of what tasks lost their own old maps bring back, and whether the selected heads are the ones.

    `stages`: in the order of the run; of a model from before the task, or of that very stage, nothing is lost yet.
    `held`: the run has distilled the maps of the selected heads, so that a graft puts in what is there already.
    """
    place = {name: at for at, name in enumerate(stages)}
    later = [one for one in found if place.get(one.model, math.inf) > place.get(one.task, -1)]
    lost_since = [one for one in later if one.donor == one.task]
    for model in dict.fromkeys(one.model for one in lost_since):
        own = {(one.task, one.heads): one for one in lost_since if one.model == model}
        words = list(dict.fromkeys(word for _, word in own))
        tasks = [task for task in dict.fromkeys(task for task, _ in own) if all((task, word) in own for word in words)]
        if not tasks:
            continue
        lost = fmean(own[task, words[0]].lost for task in tasks)
        gains = {word: fmean(own[task, word].gain for task in tasks) for word in words}
        named = [
            f"{decimal(gain)}{_noise([own[task, word] for task in tasks])}{_share(gain, lost)} "
            + _IN.get(word, f"in {word}")
            for word, gain in gains.items()
        ]
        what = (
            f"{len(tasks)} tasks lost {decimal(lost)} points each"
            if len(tasks) > 1
            else f"{tasks[0]} lost {decimal(lost)} points"
        )
        yield f"{what} until {model} was learned; old maps {'bring back' if lost > 0 else 'add'} {', '.join(named)}"
        if {SELECTED, RANDOM} <= gains.keys():
            pairs = [(own[task, SELECTED], own[task, RANDOM]) for task in tasks]
            said = _selected_or_random(gains[SELECTED] - gains[RANDOM], pairs)
            yield said + ("; but this run held the maps of the selected ones all along" if held else "")


def verdicts_of(run: Run, found: Sequence[Grafted]) -> Iterator[str]:
    """Of what was found of a run: see `verdicts`."""
    return verdicts(found, stages=[stage.name for stage in run.stages], held=bool(run.attention_weights))


def _noise(rows: Sequence[Grafted]) -> str:
    """Twice the standard error of the mean gain; nothing where that of one is not known."""
    errors = [one.error for one in rows if one.error is not None]
    return f" ± {decimal(2 * math.hypot(*errors) / len(rows))}" if len(errors) == len(rows) else ""


def _share(gain: float, lost: float) -> str:
    return f" ({gain / lost:.0%})" if lost >= 1 else ""


def _selected_or_random(difference: float, pairs: Sequence[tuple[Grafted, Grafted]]) -> str:
    """The noise is that of the test rows, the two gains taken for independent: where they come from the same rows, it
    is less. How much another draw of random heads would do is not in it."""
    errors = [one.error for pair in pairs for one in pair]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return f"selected less random heads: {signed(difference)}"
    noise = 2 * math.sqrt(math.fsum(error**2 for error in known)) / len(pairs)
    more = "more" if difference > noise else "less" if difference < -noise else "no more, beyond chance,"
    return f"the selected heads carry {more} of these tasks than random ones: {signed(difference)} ± {decimal(noise)}"
