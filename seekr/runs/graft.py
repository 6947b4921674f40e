"""The grafting study of a run: a later model answers a task's test rows with the attention maps of an earlier one.

What maps bring back of a skill is in how the tokens attend to each other; what they do not is in the other weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from seekr.attention.graft import Graft, check_graft
from seekr.distributed.processes import process_count
from seekr.errors import InputError, RunError, nearest, say
from seekr.evaluation.checks import answering_dtype
from seekr.modeling.loading import load_config_of, one_kind_of_bar
from seekr.progress import bar
from seekr.runs.answer_lines import found_in, lines_of, row_scores_of, score_of
from seekr.runs.answering import answer_by
from seekr.runs.exchange import settle
from seekr.runs.grafted import ALL, RANDOM, SELECTED, Grafted, add_grafted, read_grafted
from seekr.runs.lock import locked
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.run import Run, Stage
from seekr.runs.standing import check_part, check_weights
from seekr.scoring.uncertainty import error_of_rows

RANDOM_SEEDS = (0, 1, 2)
"""Of the draws of random heads, whose mean counts."""

_LAYERS = re.compile(r"layers=(\d{1,9})-(\d{1,9})")

Heads = Mapping[int, Sequence[int]]
"""Layer → heads."""


@dataclass(frozen=True)
class GraftQuestion:
    """A task, the stage whose maps are put in, and the sets of heads; each set is several where they are drawn."""

    task: str
    donor: Stage
    sets: dict[str, list[Heads]]


def check_heads(word: str) -> None:
    """Raises InputError for a word that names no heads."""
    layers = _LAYERS.fullmatch(word)
    if word not in (ALL, SELECTED, RANDOM) and not (layers and int(layers[1]) <= int(layers[2])):
        raise InputError(f"--heads {word}: give all, selected, random, or layers=a-b with a ≤ b, such as layers=0-3")


def graft(
    folder: Path, *, task: str | None = None, heads: str | None = None, donor: str | None = None,
    model: str | None = None,
) -> list[Grafted]:  # fmt: skip
    """Answers, scores, and keeps what was found in the run's graft.json, task by task.

    Args:
        folder: a finished run.
        task: whose test rows; None = of each task that was learned before the later stage, or that of `donor`.
        heads: all, selected (those kept for the task), random (as many in each layer, several draws), or layers=a-b;
            None = the first three, as far as the run has them.
        donor: the stage whose maps are put in; None = the task's own.
        model: the later stage that answers; None = the last.

    Raises:
        InputError: where there is nothing to graft, a word names nothing, or weights or rows are gone; nothing is
            changed then.
    """
    if process_count() > 1:
        raise InputError("graft: one process holds both models; start it without a launcher")
    if heads is not None:
        check_heads(heads)
    settle(Path(folder))
    try:
        run = Run(folder)
        read_grafted(folder)  # what is torn is reported before anything is answered
        later, questions = _plan(run, task, heads, donor, model)
        spec = _prepare(run)
        questions = [question for question in questions if _askable(spec, question, named=task is not None)]
    except RunError as error:  # a stage that is missing, a file that is torn
        raise InputError(str(error)) from None
    if not questions:
        raise InputError(f"{folder}: none of its earlier tasks has test rows")
    for stage in run.stages:
        if stage.name in (question.task for question in questions):
            check_part(stage.folder, "heads.json")
    for stage in (later, *(question.donor for question in questions)):
        if stage.model is not None:
            check_weights(run.folder, stage.folder)
    return _study(run, spec, later, questions)


def _study(run: Run, spec: RunSpec, later: Stage, questions: Sequence[GraftQuestion]) -> list[Grafted]:
    result = []
    with one_kind_of_bar(), locked(run.folder):
        model = spec.models.frozen(later.model, answering_dtype(spec.config))
        for question in questions:
            found = list(_answered(spec, question, later.name, model))
            add_grafted(run.folder, found, [stage.name for stage in run.stages])
            result += found
    return result


def _answered(spec: RunSpec, question: GraftQuestion, later: str, model: Any) -> Iterator[Grafted]:
    """Both models by themselves, then one graft after the other."""
    donor = spec.models.frozen(question.donor.model, answering_dtype(spec.config))
    check_graft(model, donor)
    column = [data.task.name for data in spec.tasks].index(question.task)
    donor_score, _ = _answer(spec, column, donor, f"after {question.donor.name}")
    own_score, own_rows = _answer(spec, column, model, f"after {later}")
    for word, draws in question.sets.items():
        scored = []
        for heads in draws:
            with Graft(model, donor, heads):
                scored.append(_answer(spec, column, model, f"with maps of {word} heads"))
        yield Grafted(
            task=question.task,
            donor=question.donor.name,
            model=later,
            heads=word,
            count=sum(map(len, draws[0].values())),
            seeds=RANDOM_SEEDS if word == RANDOM else (),
            rows=len(spec.tasks[column].test),
            donor_score=donor_score,
            own_score=own_score,
            score=mean(score for score, _ in scored),
            error=_error([rows for _, rows in scored], own_rows),
        )


def _answer(spec: RunSpec, column: int, model: Any, how: str) -> tuple[float, list[float] | None]:
    """What a model scores on the test rows of a task, and each of these by itself, where the metric is a mean."""
    data = spec.tasks[column]
    with bar(f"{data.task.name}, {how}", len(data.test)) as advance:
        given = answer_by(spec, model)(column, advance)
    found = found_in(lines_of(data, given, spec.tokenizer), data)
    return score_of(data, found), row_scores_of(data, found)


def _error(draws: Sequence[list[float] | None], own: list[float] | None) -> float | None:
    """Standard error of the mean gain over the rows, a row's gain being its mean over the draws."""
    grafted = [rows for rows in draws if rows is not None]
    if own is None:
        return None
    gains = [mean(scores) - before for *scores, before in zip(*grafted, own, strict=True)]
    return error_of_rows(gains)


def _plan(
    run: Run, task: str | None, heads: str | None, donor: str | None, model: str | None
) -> tuple[Stage, list[GraftQuestion]]:
    """The later stage, and what it is asked. Raises InputError."""
    stages = {stage.name: stage for stage in run.stages}
    if run.joint:
        raise InputError(f"{run.folder}: joint learns all tasks at once, so that there is no earlier model")
    if not run.finished:
        raise InputError(
            f"{run.folder}: not finished, {len(stages)} of {run.planned} stages are there; let its `seekr learn` go on "
            "first"
        )
    for option, name in (("--task", task), ("--from", donor), ("--to", model)):
        if name is not None and name not in stages:
            raise InputError(f"{option} {name}: {run.folder} has no such task; {nearest(name, stages)}")
    learned = [stage for stage in run.stages if stage.trained]
    later = stages[model] if model is not None else learned[-1] if learned else None
    named = task or donor
    earlier = [stages[named]] if named else [stage for stage in learned if later and stage.index < later.index]
    if later is None or not earlier:
        raise InputError(f"{run.folder}: no task was learned before another one, so that there is no earlier model")
    _check_weights(run, later)
    there = earlier if named else [stage for stage in earlier if stage.model is not None] or earlier[:1]
    questions = []
    for stage in there:
        source = stages[donor] if donor is not None else stage
        _check_weights(run, source)
        questions.append(GraftQuestion(stage.name, source, _sets(run, stage, heads)))
    _tell("their weights are gone (keep_stages)", [stage.name for stage in earlier if stage not in there])
    return later, questions


def _check_weights(run: Run, stage: Stage) -> None:
    if stage.trained and stage.model is None:
        kept = run.config.keep_stages
        mend = "a run with keep_stages=all in another output_dir keeps them"
        if kept == "all" or stage == run.stages[-1]:
            mend = f"bring them back from a copy, or learn from there on again by --redo {stage.name}"
        raise InputError(f"{run.folder}: the weights of stage {stage.name} are gone (keep_stages: {kept}); {mend}")


def _sets(run: Run, stage: Stage, word: str | None) -> dict[str, list[Heads]]:
    """The heads that are asked for, by their word. Raises InputError."""
    words = [word] if word is not None else [ALL, SELECTED, RANDOM] if stage.heads else [ALL]
    if word in (SELECTED, RANDOM) and not stage.heads:
        raise InputError(
            f"--heads {word}: no heads were selected for {stage.name} by {run.method}; give --heads all or layers=a-b"
        )
    text: Any = load_config_of(run.config.model).get_text_config()
    layers, width = int(text.num_hidden_layers), int(getattr(text, "num_attention_heads", 0))
    return {word: _heads(word, stage, layers, width) for word in words}


def _heads(word: str, stage: Stage, layers: int, width: int) -> list[Heads]:
    """The heads of a word; of random ones each draw."""
    if word == SELECTED:
        return [stage.heads]
    if word == RANDOM:
        draws = [np.random.default_rng([seed, stage.index]) for seed in RANDOM_SEEDS]
        return [
            {
                layer: sorted(draw.choice(width, len(chosen), replace=False).tolist())
                for layer, chosen in stage.heads.items()
            }
            for draw in draws
        ]
    first, last = 0, layers - 1
    if found := _LAYERS.fullmatch(word):
        first, last = int(found[1]), int(found[2])
        if last >= layers:
            raise InputError(f"--heads {word}: the model has {layers} layers, 0 to {layers - 1}")
    return [{layer: range(width) for layer in range(first, last + 1)}]


def _prepare(run: Run) -> RunSpec:
    spec = prepare(Request(run.config.model_copy(update={"vllm": None})))  # an engine attends by kernels of its own
    if spec.method.form.virtual_tokens(len(spec.tasks)):
        raise InputError(
            f"{run.folder}: {run.method} learns virtual tokens in front of each row, so that the maps of two of its "
            "models are not of the same tokens; graft a run of another method"
        )
    return spec


def _askable(spec: RunSpec, question: GraftQuestion, *, named: bool) -> bool:
    """Whether a task has test rows. Raises InputError where one that was `named` has none."""
    data = next(data for data in spec.tasks if data.task.name == question.task)
    why = "it has no test rows" if not data.test else data.gone
    if why and named:
        raise InputError(f"--task {question.task}: {why}")
    _tell(str(why), [question.task] if why else [])
    return not why


def _tell(why: str, names: Sequence[str]) -> None:
    if names:
        say(f"not grafted: {', '.join(names)}: {why}")
