"""Progressive Prompts: a new soft prompt a task, in front of those of the tasks before, which stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from peft import LoraConfig
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from seekr.disk.regular import regular
from seekr.methods.base import Method, Objective, TaskContext
from seekr.methods.soft_prompts import WEIGHTS, SoftPromptForm, SoftPromptModel


class PromptOfEachTask(SoftPromptForm):
    """A new prompt, before those of the tasks before."""

    method: ProgressivePrompts

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        return ProgressivePromptModel(model, self.method.prompt_tokens)

    def virtual_tokens(self, tasks: int) -> int:
        return tasks * self.method.prompt_tokens

    def continue_from(self, model: Any, weights: Path) -> None:
        model.freeze_earlier(load_file(regular(weights / WEIGHTS)))

    def tell_task(self, model: nn.Module, task: int) -> None:
        if isinstance(model, ProgressivePromptModel):
            model.tell(task)


class ProgressivePrompts(Method):
    """Task k is learned by a prompt P_k, on inputs [P_k, ..., P_1, x]; the model and P_{k-1}, ..., P_1 are frozen.

    It needs to know the task at test time: task j is answered with [P_j, ..., P_1, x], as on the day it was learned,
    so its score stays what it was and backward transfer is exactly 0. A task that is not learned yet is answered with
    all prompts so far, a skill (which has no prompt) by the base model alone. Each task costs `prompt_tokens` positions
    of the model, for good. A stage's `model` folder loads with plain peft, with all prompts.

    Args:
        prompt_tokens: virtual tokens of each prompt; 10 is the default of the released code.

    Source: Razdaibiedina et al., arXiv 2301.12314, equations 3 and 4. A prompt begins as embeddings of random entries
    of the vocabulary, as in the released code; the MLP that may reparameterize it in training is left out.
    """

    name = "progressive_prompts"
    unplanned = "the prompts of earlier tasks in front of every row"
    form = property(PromptOfEachTask)
    free = Method.free - {"average"}

    prompt_tokens: Annotated[int, Field(ge=1)] = 10

    def start(self, context: TaskContext) -> Objective:
        model: Any = context.model
        model.encoder.places[0] = context.index
        return super().start(context)


class ProgressivePromptModel(SoftPromptModel):
    """The newest prompt is the encoder's `embedding`, frozen ones are its `earlier` [tokens, width], newest first.

    `places` [prompts] are the places in the run of the tasks that the prompts belong to, newest first.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        super().__init__(model, tokens)
        weight = self.encoder.embedding.weight
        self.encoder.register_buffer("earlier", weight.new_empty(0, weight.shape[1]))
        self.encoder.register_buffer("places", torch.zeros(1, dtype=torch.long, device=weight.device))
        self.skipped = 0  # of the newest prompts

    def tell(self, task: int) -> None:
        """Answers from now on as after task `task`, its place in the run counted from 0."""
        self.skipped = int((self.encoder.places > task).sum())

    def prefix(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = self.encoder.embedding.weight
        prompts = torch.cat([weight, self.encoder.earlier])[self.skipped * len(weight) :]
        return prompts.expand(len(input_ids), -1, -1)

    def freeze_earlier(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts the prompts of a finished stage after the new one."""
        encoder = self.encoder
        encoder.earlier = tensors["prompt_embeddings"].to(encoder.earlier)
        encoder.places = torch.cat([encoder.places[:1], tensors["places"].to(encoder.places)])

    def to_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prompts = torch.cat([state["embedding.weight"], state["earlier"]])
        return {"prompt_embeddings": prompts, "places": state["places"]}

    def from_file(self, tensors: Mapping[str, Tensor]) -> None:
        tokens = len(self.encoder.embedding.weight)
        prompts, places = tensors["prompt_embeddings"], tensors["places"]
        super().from_file({"prompt_embeddings": prompts[:tokens]})
        self.encoder.places = places[:1].to(self.encoder.places)
        self.freeze_earlier({"prompt_embeddings": prompts[tokens:], "places": places[1:]})
