"""Learning to Prompt: each input chooses its prompts from a pool, by keys that are learned with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from peft import LoraConfig
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import ModelOutput

from seekr.errors import InputError
from seekr.methods.base import Method, Objective, TaskContext, batch_of
from seekr.methods.soft_prompts import SoftPromptForm, SoftPromptModel, prompt_mask
from seekr.modeling.batches import MicroBatch

_LEAST_FREQUENCY = 1e-6


class PromptPoolForm(SoftPromptForm):
    """The prompts of a pool, of which each row has those that are chosen for it."""

    method: L2p

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        return PromptPoolModel(model, self.method.pool_size, self.method.prompt_tokens, self.method.prompts_per_input)

    def virtual_tokens(self, tasks: int) -> int:
        return self.method.prompts_per_input * self.method.prompt_tokens

    def inputs_with_answers(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = super().inputs_with_answers(model, batch)
        if not isinstance(model, PromptPoolModel):  # the base model
            return inputs
        return inputs | {"query_mask": prompt_mask(batch["attention_mask"], batch["labels"])}


class L2p(Method):
    """Before each input x stand the `prompts_per_input` prompts of a pool whose keys k_i are the nearest to its query.

    The distance is γ = 1 − cos(q(x), k_i), equation 3, and a step's loss (equation 5) is
    Σ cross-entropy / answer tokens + key_weight · Σ over rows of Σ over their chosen keys of γ / rows,
    which reaches only chosen prompts and keys. While a task is learned, γ is multiplied by how often a prompt was
    chosen in the tasks before (equation 4), so that another task gets other prompts. At test time γ alone counts, and
    the task need not be given. The query is the mean of the frozen input embeddings of the prompt's tokens, where the
    paper takes a feature of a vision model: it needs no forward of its own, and is the same whatever stands next to the
    prompt, so that the choice in training is the choice in generation. Chosen prompts stand in the pool's order.

    A stage's `model` folder needs this class; peft's own has no pool and refuses it.

    Args:
        pool_size: prompts in the pool (M).
        prompt_tokens: virtual tokens of each prompt (L_p).
        prompts_per_input: prompts chosen for each input (N), at most `pool_size`.
        key_weight: λ.
        frequency_penalty: whether equation 4 holds while a task is learned. Frequencies are counted when a task ends,
            over its rows. Without it tasks share the prompts that the first one chose.

    Source: Wang et al., arXiv 2112.08654; the defaults are those of the paper for Split CIFAR-100. Prompts begin
    as embeddings of random entries of the vocabulary, keys random on their scale.
    """

    name = "l2p"
    unplanned = "counting how often each prompt was chosen"
    form = property(PromptPoolForm)
    free = Method.free - {"average"}

    pool_size: Annotated[int, Field(ge=1)] = 10
    prompt_tokens: Annotated[int, Field(ge=1)] = 5
    prompts_per_input: Annotated[int, Field(ge=1)] = 5
    key_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    frequency_penalty: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts_per_input > self.pool_size:
            few = f"{self.prompts_per_input} of a pool of {self.pool_size} cannot be chosen"
            raise InputError(f"method.prompts_per_input: {few}; make pool_size larger")

    def start(self, context: TaskContext) -> Objective:
        return AnswersAndKeys(self)

    def remember(self, context: TaskContext) -> None:
        if not context.learn:
            return
        model: Any = context.model
        counts = torch.zeros_like(model.encoder.counts)
        for start in range(0, len(context.samples), context.micro_batch_rows):
            batch = batch_of(context.samples[start : start + context.micro_batch_rows], context)
            prompts = prompt_mask(batch["attention_mask"], batch["labels"])
            chosen, _ = model.choose(batch["input_ids"], prompts, penalized=self.frequency_penalty)
            counts += chosen.flatten().bincount(minlength=len(counts))
        model.encoder.counts += counts


class AnswersAndKeys(Objective):
    """The answers after the chosen prompts, and the distances of their keys."""

    method: L2p

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        prompts = prompt_mask(batch.inputs["attention_mask"], batch.labels)
        output = model(**batch.inputs, use_cache=False, query_mask=prompts, penalized=self.method.frequency_penalty)
        return {
            "task": batch.answer_loss(output.logits[batch.answers_at]),
            "key": self.method.key_weight * (output.key_distances * batch.weights).sum() / len(batch.step_rows),
        }


@dataclass
class PromptPoolOutput(ModelOutput):
    """Logits [rows, length, vocabulary], and [rows] the sum of a row's distances to its chosen keys, float32."""

    logits: Tensor | None = None
    key_distances: Tensor | None = None


class PromptPoolModel(SoftPromptModel):
    """A pool of prompts: the encoder's `embedding` [pool · tokens, width] holds all of them, one after another.

    Beside it are `keys` [pool, width] and `counts` [pool], how many rows of the finished tasks chose each prompt.
    """

    def __init__(self, model: Any, pool: int, tokens: int, per_input: int) -> None:
        super().__init__(model, pool * tokens)
        self.per_input = per_input
        weight = self.encoder.embedding.weight
        self.encoder.keys = nn.Parameter(torch.randn(pool, weight.shape[1]).to(weight) * weight.detach().std())
        self.encoder.register_buffer("counts", torch.zeros(pool, dtype=torch.long, device=weight.device))

    def choose(self, input_ids: Tensor, query_mask: Tensor, *, penalized: bool) -> tuple[Tensor, Tensor]:
        """The prompts of each row, [rows, per_input] ascending, and the distances of their keys to the row's query.

        `query_mask` [rows, length] says which tokens are the prompt's; `penalized` is for training, equation 4.
        """
        with torch.no_grad():
            tokens = self.embed(input_ids).float() * query_mask[..., None]
            query = tokens.sum(dim=1) / query_mask.sum(dim=1, keepdim=True).clamp(min=1)
        distances = 1 - functional.cosine_similarity(query[:, None], self.encoder.keys.float(), dim=-1)
        ranks = distances.detach()
        if penalized:
            counts = self.encoder.counts
            # Not 0, by which all prompts that were never chosen would be equally near; in the first task all of them.
            ranks = ranks * (counts / counts.sum().clamp(min=1)).clamp(min=_LEAST_FREQUENCY)
        chosen = ranks.topk(self.per_input, largest=False).indices.sort(dim=1).values
        return chosen, distances.gather(1, chosen)

    def prompts(self, chosen: Tensor) -> Tensor:
        """[rows, per_input · tokens, width]: the chosen prompts, one after the other."""
        pool = self.encoder.embedding.weight.unflatten(0, (len(self.encoder.keys), -1))
        return pool[chosen].flatten(1, 2)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.prompts(self.choose(input_ids, attention_mask, penalized=False)[0])

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, query_mask: Tensor | None = None,
        penalized: bool = False, **options: Any,
    ) -> PromptPoolOutput:  # fmt: skip
        """`query_mask` says which tokens are the prompt's, None = all of them."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        chosen, distances = self.choose(input_ids, mask if query_mask is None else query_mask, penalized=penalized)
        output = self.forward_behind(self.prompts(chosen), input_ids, mask, **options)
        return PromptPoolOutput(logits=output.logits, key_distances=distances.sum(dim=1))

    def to_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt_pool": state["embedding.weight"], "keys": state["keys"], "counts": state["counts"]}

    def from_file(self, tensors: Mapping[str, Tensor]) -> None:
        encoder = self.encoder
        with torch.no_grad():
            encoder.embedding.weight.copy_(tensors["prompt_pool"])
            encoder.keys.copy_(tensors["keys"])
            encoder.counts.copy_(tensors["counts"])
