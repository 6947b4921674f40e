"""Whether what is trained can be answered with, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig

from seekr.config.schema import Config
from seekr.data.task_data import TaskData
from seekr.errors import InputError
from seekr.methods import Method, Olora
from seekr.scoring.metrics import try_metric


def check_answering(config: Config, method: Method, lora: LoraConfig | None, tasks: Sequence[TaskData]) -> str | None:
    """The version of vLLM where the run asks for it. Raises InputError where it cannot answer with what is trained."""
    if config.vllm is None:
        return None
    if method.form.prompts:
        raise InputError(f"vllm: {method.name} answers with prompts of its own, which vLLM has not; leave the key out")
    from seekr.evaluation.vllm_engine import check_vllm

    rank = 0
    if lora is not None:
        rank = max([lora.r, *(lora.rank_pattern or {}).values()])
        if isinstance(method, Olora):  # each stage holds the adapters of all tasks before it
            rank *= sum(data.task.learn for data in tasks)
    return check_vllm(
        config.vllm, config.model, dtype=answering_dtype(config), length=longest(tasks), lora=lora, rank=rank
    )


def check_metrics(tasks: Sequence[TaskData]) -> None:
    """Raises InputError for a metric that cannot score the right answers of its task."""
    for one in tasks:
        rights = [question.key.references for question in one.asked]
        try_metric(one.task.metric, rights, [example.prompt_text for example in one.test])


def answering_dtype(config: Config) -> str:
    """The dtype of the weights that answer: the run's, or what the Trainer's `bf16_full_eval`, `fp16_full_eval` say."""
    for key, dtype in (("bf16_full_eval", "bfloat16"), ("fp16_full_eval", "float16")):
        if config.training.get(key):
            return dtype
    return config.dtype


def longest(tasks: Sequence[TaskData]) -> int:
    """Tokens of the longest test prompt with its answer."""
    return max((len(prompt) + data.max_new_tokens for data in tasks for prompt in data.test_prompts), default=1)
