"""Who answers the test rows of a run with the model of a stage: transformers, or vLLM where the run asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from seekr import evaluation
from seekr.errors import InputError
from seekr.methods import Method, Olora

if TYPE_CHECKING:
    from peft import LoraConfig

    from seekr.config import Config
    from seekr.preparation import Prepared
    from seekr.task_data import TaskData

Answer = Callable[[int, Callable[[int], None]], list[str]]
"""(place of a task, advance) → an answer to each of its test prompts; `advance` is called with how many came."""


def check_answering(config: Config, method: Method, lora: LoraConfig | None, tasks: Sequence[TaskData]) -> str | None:
    """The version of vLLM where the run asks for it. Raises InputError where it cannot answer with what is trained."""
    if config.vllm is None:
        return None
    if type(method).load is not Method.load:
        raise InputError(f"vllm: {method.name} answers with prompts of its own, which vLLM has not; leave the key out")
    from seekr.vllm_engine import check_vllm

    rank = 0
    if lora is not None:
        rank = max([lora.r, *(lora.rank_pattern or {}).values()])
        if isinstance(method, Olora):  # each stage holds the adapters of all tasks before it
            rank *= sum(data.task.learn for data in tasks)
    return check_vllm(config.vllm, config.model, dtype=config.dtype, length=longest(tasks), lora=lora, rank=rank)


def longest(tasks: Sequence[TaskData]) -> int:
    """Tokens of the longest test prompt with its answer."""
    return max((len(prompt) + data.max_new_tokens for data in tasks for prompt in data.test_prompts), default=1)


@contextmanager
def answering(prepared: Prepared, weights: Path | None) -> Iterator[Answer]:
    """A stage's `model` folder, None = the base model, made ready to answer. All processes call it and what it gives.

    Raises RunError where vLLM does not take the model.
    """
    config, tasks = prepared.config, prepared.tasks
    if config.vllm is not None:
        from seekr import vllm_engine

        with vllm_engine.answering(
            config.model,
            weights,
            prepared.tokenizer,
            settings=config.vllm,
            dtype=config.dtype,
            length=longest(tasks),
            device=prepared.device,
        ) as generate:
            yield lambda column, advance: generate(tasks[column].test_prompts, tasks[column].max_new_tokens, advance)
        return
    model = prepared.on_device(lambda: prepared.method.load(config.model, weights, dtype=config.dtype))

    def answer(column: int, advance: Callable[[int], None]) -> list[str]:
        prepared.method.tell_task(model, column)
        return evaluation.generate_answers(
            model,
            prepared.tokenizer,
            tasks[column].test_prompts,
            max_new_tokens=tasks[column].max_new_tokens,
            batch_size=prepared.training.get("per_device_eval_batch_size", 64),
            advance=advance,
        )

    yield answer
