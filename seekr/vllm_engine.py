"""Test rows answered by vLLM, where a run's key `vllm` asks for it: an engine for each process and model."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seekr.errors import InputError, RunError, nearest
from seekr.evaluation import answer_text, end_tokens, until_end
from seekr.processes import gathered, own_share, process_count

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase

    from seekr.methods import Method

_OWN = {
    "model": "the model of each stage is answered with",
    "tokenizer": "prompts and answers are token ids",
    "skip_tokenizer_init": "prompts and answers are token ids",
    "generation_config": "answers are greedy",
    "enable_lora": "it follows from the key lora",
    "max_lora_rank": "it follows from the key lora",
    "seed": "answers are greedy",
}
"""Arguments of the engine that follow from the run."""

_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "device_ids")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Ways to begin an adapter that leave the model's own weights as they are."""

_TOGETHER = 1024
"""Prompts that an engine is given at once; how they are batched is its own affair."""

_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How variables begin that tell a process its place in a launch; an engine is none of its processes."""

Generate = Callable[[Sequence[np.ndarray], int, Callable[[int], None]], list[str]]
"""(prompts, max_new_tokens, advance) → an answer to each prompt; `advance` is called with how many came."""


def check_vllm(settings: Mapping[str, Any] | None, method: Method, lora: LoraConfig | None) -> None:
    """Raises InputError where vLLM is asked for, and is not there or cannot answer with what this run trains."""
    if settings is None:
        return
    if find_spec("vllm") is None:
        raise InputError("vllm: the package vllm is not installed; install it (pip install vllm), or leave the key out")
    if method.adapter == "own":
        raise InputError(f"vllm: {method.name} answers with prompts of its own, which vLLM has not; leave the key out")
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)} - _OWN.keys()
    for key in settings:
        if key in _OWN:
            raise InputError(f"vllm.{key} is set by seekr: {_OWN[key]}; leave it out")
        if key not in known:
            raise InputError(f"vllm: unknown key {str(key)!r}; {nearest(str(key), known)}")
    if process_count() > 1:
        for key in _PARALLEL:
            if settings.get(key) not in (None, 1):
                raise InputError(
                    f"vllm.{key}: each of {process_count()} processes answers a part of the rows on its own device; "
                    "leave it out, or score with one process: the same command again without the launch"
                )
    if lora is not None:
        _check_adapter(lora)


def _check_adapter(lora: LoraConfig) -> None:
    start = lora.init_lora_weights
    odd = [key for key in ("use_dora", "modules_to_save", "lora_bias", "layer_replication") if getattr(lora, key, None)]
    if isinstance(start, str) and start not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights: {start}")
    if odd:
        raise InputError(f"vllm: it does not read adapters with {odd[0]}; leave that out of lora, or the key vllm")


@contextmanager
def answering(
    base: str,
    weights: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    settings: Mapping[str, Any],
    dtype: str,
    length: int,
    device: torch.device,
) -> Iterator[Generate]:
    """An engine with the model of a stage, which is gone, with all its memory, once this is left.

    Answers are greedy, and end where those of `seekr.evaluation.generate_answers` do. They come from other kernels: a
    token may differ where two are as likely. Of several processes each answers a part, on a device of its own, and all
    of them get all answers.

    Args:
        base: folder or hub name of the base model.
        weights: a stage's `model` folder, whole or an adapter; None = `base` itself.
        tokenizer: whose end token ends an answer, beside those that the model's generation settings name.
        settings: arguments of vLLM's engine.
        dtype: of the weights, unless `settings` says otherwise.
        length: tokens of the longest prompt with its answer, unless `settings` gives a `max_model_len`.
        device: this process's own.

    Raises:
        RunError: where the engine does not start, or breaks down.
    """
    adapter = weights if weights is not None and (weights / "adapter_config.json").is_file() else None
    source = base if weights in (None, adapter) else str(weights)
    arguments = {"dtype": dtype, "max_model_len": length, "disable_log_stats": True, **settings}
    arguments |= {"model": source, "skip_tokenizer_init": True, "generation_config": "vllm", "seed": 0}
    if adapter:
        arguments |= {"enable_lora": True, "max_lora_rank": _rank_of(adapter)}
    if process_count() > 1 and device.index is not None:
        arguments["device_ids"] = [device.index]
    # What earlier models have left in this process's cache is memory that the engine would not get.
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    with _failing(f"did not start with {source}"), _outside_the_launch():
        engine = LLM(**arguments)
    request = LoRARequest("stage", 1, str(adapter)) if adapter else None
    ends = end_tokens(_generation_settings(source), tokenizer)

    def generate(prompts: Sequence[np.ndarray], max_new_tokens: int, advance: Callable[[int], None]) -> list[str]:
        parameters = SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=ends, ignore_eos=True, detokenize=False
        )
        own, found = own_share(len(prompts)), []
        for start in range(0, len(own), _TOGETHER):
            asked = [{"prompt_token_ids": prompts[place].tolist()} for place in own[start : start + _TOGETHER]]
            with _failing(f"did not answer with {source}"):
                outputs = engine.generate(asked, parameters, use_tqdm=False, lora_request=request)
            answers = [until_end(list(output.outputs[0].token_ids), ends) for output in outputs]
            found += [answer_text(one, tokenizer) for one in answers]
            advance(len(prompts[start * process_count() : (start + _TOGETHER) * process_count()]))
        return [text for part in gathered(found) for text in part]

    try:
        yield generate
    finally:
        engine.llm_engine.engine_core.shutdown()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Whatever an engine may meet, in one line; its own process has said more on stderr."""
    try:
        yield
    except Exception as error:
        raise RunError(
            f"vllm: the engine {what}: {' '.join(str(error).split())[:300]}; what was learned is kept, and the same "
            "command with other settings, or with vllm=null, scores it"
        ) from None


def _rank_of(adapter: Path) -> int:
    config = json.loads((adapter / "adapter_config.json").read_text())
    largest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return next((rank for rank in _RANKS if rank >= largest), largest)


def _generation_settings(model: str) -> Any:
    """The generation settings that transformers gives a model that it loads."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))


@contextmanager
def _outside_the_launch() -> Iterator[None]:
    """While this lasts, a process that is begun takes itself for one by itself."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_LAUNCH)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
