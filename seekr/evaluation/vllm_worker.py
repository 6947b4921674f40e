"""vLLM in a process of its own: `python -m seekr.evaluation.vllm_worker`, which answers each line of JSON by one.

A process that trains never imports vLLM, which changes torch's settings while it is imported. However that process
ends, this one's input is then at an end, and the engine is shut down.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from typing import Any

from seekr.errors import nearest


def main() -> None:
    """The first line says what the engine is made of, and whether that is only to be checked; each further line holds
    prompts. An error ends it, and is what it says last."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no reply
    first = json.loads(sys.stdin.readline())
    try:
        if first["check"]:
            _tell(replies, {"version": _check(first)})
            return
        _serve(first, replies)
    except Exception as error:  # whatever vLLM may meet
        _tell(replies, {"error": " ".join(f"{error or type(error).__name__}".split())[:300]})


def _check(request: dict[str, Any]) -> str:
    """vLLM's version; raises what an engine of these arguments would raise before it has read any weights."""
    from vllm import __version__
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for key in request["arguments"]:
        if key not in known:
            raise ValueError(f"unknown key {str(key)!r}; {nearest(str(key), known)}")
    config = EngineArgs(**request["arguments"]).create_engine_config()
    if request["lora"] is not None:
        import torch
        from vllm.lora.peft_helper import PEFTHelper
        from vllm.platforms import current_platform

        PEFTHelper.from_dict(request["lora"]).validate_legal(config.lora_config)
        if request["lora"].get("trainable_token_indices"):
            raise ValueError("it does not read adapters with trainable_token_indices")
        if current_platform.is_cuda_alike() and config.model_config.dtype == torch.float32:
            raise ValueError("on a GPU its adapters have 16 bits; say vllm={dtype: bfloat16}")
    return str(__version__)


def _serve(request: dict[str, Any], replies: Any) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(**request["arguments"])
    try:
        _tell(replies, {})
        adapter = None if request["adapter"] is None else LoRARequest("stage", 1, request["adapter"])
        for line in sys.stdin:
            asked = json.loads(line)
            # The model's own end token ends nothing by itself: `ends` holds all that do.
            parameters = SamplingParams(
                temperature=0.0,
                max_tokens=asked["max_new_tokens"],
                stop_token_ids=asked["ends"],
                ignore_eos=True,
                detokenize=False,
            )
            prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
            outputs = engine.generate(prompts, parameters, use_tqdm=False, lora_request=adapter)
            _tell(replies, {"answers": [list(output.outputs[0].token_ids) for output in outputs]})
    finally:
        engine.llm_engine.engine_core.shutdown()


def _tell(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
