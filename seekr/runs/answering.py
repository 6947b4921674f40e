"""Who scores the test rows of a run with the model of a stage: transformers, or vLLM where the run asks for it.

Either generates answers. How likely right answers are is measured by transformers alone, as training does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from seekr.data.task_data import TaskData
from seekr.errors import RunError
from seekr.evaluation.checks import answering_dtype, longest
from seekr.methods import Method
from seekr.modeling import generation as evaluation
from seekr.runs.prepare import RunSpec
from seekr.scoring.cells import GENERAL
from seekr.scoring.likelihood import LIKELIHOOD, RowLikelihood

ASKED_TOGETHER = 64
"""Prompts that are answered at once, where the run does not say."""

Answerer = Callable[[int, Callable[[int], None]], Sequence[evaluation.Generated | RowLikelihood]]
"""(column of the matrix, advance) → an answer to each of its test prompts, or how likely each right one is where that
is its metric; `advance` is called with how many came."""


@contextmanager
def answering(spec: RunSpec, weights: Path | None, *, engine: bool) -> Iterator[Answerer]:
    """A stage's `model` folder, None = the base model, made ready to answer. All processes call it and what it gives.

    `engine`: by vLLM, else by transformers. Raises RunError where vLLM does not take the model, or a likelihood is no
    number.
    """
    config, columns = spec.config, spec.columns
    if engine:
        from seekr.evaluation import vllm_engine

        with vllm_engine.answering(
            config.model,
            weights,
            spec.tokenizer,
            settings=config.vllm or {},
            dtype=answering_dtype(config),
            length=longest(spec.tasks),
            device=spec.models.device,
        ) as generate:
            yield lambda column, advance: generate(
                columns[column].test_prompts, columns[column].max_new_tokens, advance
            )
        return
    yield answer_by(spec, spec.models.frozen(weights, answering_dtype(config)))


def answer_by(spec: RunSpec, model: Any) -> Answerer:
    """The answers of a loaded model, by transformers."""
    together = spec.training.get("per_device_eval_batch_size", ASKED_TOGETHER)
    read = spec.arguments.per_device_train_batch_size  # logits of so many rows fit
    columns = spec.columns
    places = {column: column for column in columns} | {GENERAL: len(spec.tasks)}  # as a task that is still to come
    return lambda column, advance: answer_task(
        model, spec.method, spec.tokenizer, columns[column], places[column], advance, asked=together, read=read
    )


def answer_task(
    model: Any,
    method: Method,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    place: int,
    advance: Callable[[int], None],
    *,
    asked: int,
    read: int,
) -> Sequence[evaluation.Generated | RowLikelihood]:
    """The answers of a method's model to the test rows of the task at a place of the run, or how likely right ones are.

    `asked` prompts are answered, or `read` answers read, at once. Raises RunError where a likelihood is no number.
    """
    method.form.tell_task(model, place)
    if data.task.metric != LIKELIHOOD:
        return evaluation.generate_tokens(
            model, tokenizer, data.test_prompts, max_new_tokens=data.max_new_tokens, batch_size=asked, advance=advance
        )
    found = evaluation.answer_likelihoods(
        model,
        data.test_rows,
        tokenizer.pad_token_id,
        batch_size=read,
        inputs=lambda batch: method.form.inputs_with_answers(model, batch),
        advance=advance,
    )
    for row, one in enumerate(found):
        if not isfinite(one.log_likelihood):
            raise RunError(
                f"task {data.task.name!r}, test row {row} (counted from 0): its log-likelihood is "
                f"{one.log_likelihood:g}; the model's weights are broken, or its dtype is too narrow for it"
            )
    return found
