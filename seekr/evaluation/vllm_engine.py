"""Test rows answered by vLLM, where a run's key `vllm` asks for it: an engine for each process and model."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from seekr.disk.regular import read_bytes
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import gathered, own_share, process_count
from seekr.errors import InputError, RunError
from seekr.modeling.generation import Generated, end_tokens, until_end
from seekr.modeling.loading import is_adapter

_OWN = {
    "model": "the model of each stage is answered with",
    "tokenizer": "prompts and answers are token ids",
    "skip_tokenizer_init": "prompts and answers are token ids",
    "generation_config": "answers are greedy",
    "seed": "answers are greedy",
    "enable_lora": "it follows from the key lora",
    "max_lora_rank": "it follows from the key lora",
    "device_ids": "an engine has its process's device",
    "trust_remote_code": "no code that comes with a model is run",
    "hf_token": "it would be written into the run's folder; set HF_TOKEN in the environment",
}
"""Arguments of the engine that are not to be given, and why."""

_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
_TOGETHER = 1024
"""Prompts that an engine is given at once; how they are batched is its own affair."""

_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How variables begin that tell a process its place in a launch; an engine is none of its processes."""

_TIMEOUT, _TIMEOUT_AFTER_FAILURE = 120.0, 10.0
"""Seconds that an engine may take to end, and one whose work was broken off."""

Generate = Callable[[Sequence[np.ndarray], int, Callable[[int], None]], list[Generated]]
"""(prompts, max_new_tokens, advance) → an answer to each prompt; `advance` is called with how many came."""


def check_vllm(
    settings: Mapping[str, Any], model: str, *, dtype: str, length: int, lora: LoraConfig | None, rank: int
) -> str:
    """The version of vLLM, which is tried up to where it would read weights.

    Args:
        settings: the key `vllm` of a run.
        model: the base model.
        dtype: of the weights, unless `settings` says otherwise.
        length: tokens of the longest prompt with its answer.
        lora: the adapter that is trained.
        rank: the largest that one will have.

    Raises:
        InputError: where vLLM is not there, or does not take these settings, the model or the adapter.
    """
    if find_spec("vllm") is None:
        raise InputError(
            "vllm: the package vllm is not installed; install it (pip install 'seekr-continual[vllm]'), or leave "
            "the key out (vllm=null)"
        )
    for key in settings:
        if key in _OWN:
            raise InputError(f"vllm.{key} is set by seekr: {_OWN[key]}; leave it out")
        if process_count() > 1 and key in _PARALLEL and settings[key] != 1:
            raise InputError(
                f"vllm.{key}: each of {process_count()} processes answers a part of the rows on its own device; "
                "leave it out, or score with one process: the same command again without the launch"
            )
    given = settings.get("max_model_len")
    if isinstance(given, int) and given < length:
        raise InputError(f"vllm.max_model_len: {given} are not enough for a prompt and its answer, which take {length}")
    arguments = _arguments(model, settings, dtype=dtype, length=length, rank=rank if lora is not None else None)
    described = None if lora is None else json.loads(json.dumps(lora.to_dict(), default=_plain))
    try:
        with _worker(stderr=subprocess.DEVNULL) as ask:
            reply = ask({"check": True, "arguments": arguments, "lora": described})
    except RunError as error:
        raise InputError(f"vllm: {error}; mend that, or leave the key out (vllm=null)") from None
    return str(reply["version"])


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

    Answers are greedy, and end where those of `seekr.modeling.generation.generate_tokens` do. They come from other
    kernels: a token may differ where two are as likely. Of several processes each answers a part, on a device of its
    own, and all of them get all answers.

    Args:
        base: folder or hub name of the base model.
        weights: a stage's `model` folder, whole or an adapter; None = `base` itself.
        tokenizer: whose end token ends an answer, as well as those that the model's generation settings name.
        settings: arguments of vLLM's engine.
        dtype: of the weights, unless `settings` says otherwise.
        length: tokens of the longest prompt with its answer, unless `settings` gives a `max_model_len`.
        device: this process's own.

    Raises:
        RunError: where the engine does not start, or breaks down; on all processes.
    """
    adapter = weights if weights is not None and is_adapter(weights) else None
    source = base if weights in (None, adapter) else str(weights)
    rank = None if adapter is None else _rank_of(adapter)
    arguments = _arguments(source, settings, dtype=dtype, length=length, rank=rank)
    if process_count() > 1 and device.index is not None:
        arguments["device_ids"] = [device.index]
    ends = end_tokens(_generation_settings(source), tokenizer)
    # What earlier models have left in this process's cache is memory that the engine would not get.
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    with _worker(stderr=None) as ask:

        def answered(request: dict[str, Any]) -> dict[str, Any]:
            try:
                return ask(request)
            except RunError as error:
                raise RunError(
                    f"vllm: the engine failed with {source}: {error}; what was learned is kept, and the same command "
                    "with other settings, or with vllm=null, scores it"
                ) from None

        first = {"check": False, "arguments": arguments, "adapter": None if adapter is None else str(adapter)}
        agreed(lambda: answered(first))

        def generate(
            prompts: Sequence[np.ndarray], max_new_tokens: int, advance: Callable[[int], None]
        ) -> list[Generated]:
            own = own_share(len(prompts))

            def answers() -> list[Generated]:
                found = []
                for start in range(0, len(own), _TOGETHER):
                    asked = [prompts[place].tolist() for place in own[start : start + _TOGETHER]]
                    reply = answered({"prompts": asked, "max_new_tokens": max_new_tokens, "ends": ends})
                    found += [until_end(ids, ends) for ids in reply["answers"]]
                    advance(len(prompts[start * process_count() : (start + _TOGETHER) * process_count()]))
                return found

            return [answer for part in gathered(agreed(answers)) for answer in part]

        yield generate


def _arguments(model: str, settings: Mapping[str, Any], *, dtype: str, length: int, rank: int | None) -> dict[str, Any]:
    """Those of the engine; `rank` = the largest of the adapter's, None = there is no adapter."""
    found = {"dtype": dtype, "max_model_len": length, "disable_log_stats": True, **settings}
    found |= {"model": model, "skip_tokenizer_init": True, "generation_config": "vllm", "seed": 0}
    if rank is not None:
        found |= {"enable_lora": True, "max_lora_rank": lora_rank(rank)}
    return found


def lora_rank(rank: int) -> int:
    """The least that vLLM takes as `max_lora_rank` for adapters of a rank."""
    return next((one for one in (1, 8, 16, 32, 64, 128, 256, 320, 512) if one >= rank), rank)


@contextmanager
def _worker(stderr: int | None) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A process of `vllm_worker`, and what asks it. That raises RunError with what went wrong there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCH)}
    environment |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])}
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "seekr.evaluation.vllm_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=quiet | environment,
        start_new_session=True,  # Ctrl-C is for this process, which then ends that one
    )
    questions, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        try:
            questions.write(json.dumps(request) + "\n")
            questions.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RunError(f"its process ended with status {process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RunError(reply["error"])
        return reply

    timeout = _TIMEOUT_AFTER_FAILURE
    try:
        yield ask
        timeout = _TIMEOUT
    finally:
        with suppress(BrokenPipeError):
            questions.close()
        try:
            process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the engine's own processes too
            process.wait()
        answers.close()


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _rank_of(adapter: Path) -> int:
    config = json.loads(read_bytes(adapter / "adapter_config.json"))
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


def _generation_settings(model: str) -> Any:
    """The generation settings that transformers gives a model that it loads."""
    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
