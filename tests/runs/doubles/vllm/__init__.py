"""Stands in for vLLM where that is not installed: as much of its surface as a run uses, answers by transformers.

It is as strict as vLLM: an engine refuses what is longer than `max_model_len`, an adapter above `max_lora_rank`, and
work once it is shut down. Each engine adds its arguments to the file that ENGINES names, and its end to the same file.
ENGINE_FAILS makes one fail: "start", "answer", "die" without a word, or "hang".
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vllm.lora.request import LoRARequest

__version__ = "0.0"


@dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool


class LLM:
    def __init__(self, model: str, dtype: str, max_model_len: int, **arguments: Any) -> None:
        from transformers import AutoModelForCausalLM

        if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
            raise RuntimeError("an engine that takes itself for a process of the launch waits for the others")
        if os.environ.get("ENGINE_FAILS") == "start":
            raise ValueError("no memory is left")
        self.length, self.rank = max_model_len, arguments.get("max_lora_rank", 0) * arguments.get("enable_lora", False)
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.shutdown))
        self.tell({"model": model, "dtype": dtype, "max_model_len": max_model_len, **arguments})

    def tell(self, what: Any) -> None:
        if "ENGINES" in os.environ:
            with Path(os.environ["ENGINES"]).open("a") as file:
                file.write(json.dumps(what) + "\n")

    def shutdown(self) -> None:
        self.model = None
        self.tell("gone")

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        parameters: SamplingParams,
        *,
        use_tqdm: bool,
        lora_request: LoRARequest | None,
    ) -> list[Any]:
        if os.environ.get("ENGINE_FAILS") == "answer":
            raise RuntimeError("the device\nis gone")
        if os.environ.get("ENGINE_FAILS") == "die":
            os._exit(3)
        if os.environ.get("ENGINE_FAILS") == "hang":
            self.tell(os.getpid())
            time.sleep(600)
        print("what is printed is no reply")
        model = self.model
        if lora_request is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, lora_request.path)
            assert model.peft_config["default"].r <= self.rank
        found = []
        for prompt in prompts:
            ids = list(prompt["prompt_token_ids"])
            assert len(ids) + parameters.max_tokens <= self.length
            answer: list[int] = []
            # An end token is the last of an answer, as vLLM has it.
            while len(answer) < parameters.max_tokens and not set(answer) & set(parameters.stop_token_ids):
                answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=answer)]))
        if lora_request is not None:
            self.model = model.unload()
        return found
