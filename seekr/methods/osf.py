"""Orthogonal subspace fine-tuning: weights move only orthogonally to their dominant singular directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import torch
from peft import LoraConfig, OSFConfig, get_peft_model
from peft.tuners.osf import OSFLayer
from pydantic import Field
from torch import Tensor, nn

from seekr.errors import InputError, said_by
from seekr.methods.base import Method, Objective, TaskContext
from seekr.methods.form import ModelForm
from seekr.modeling.batches import MicroBatch
from seekr.modeling.loading import load_stage
from seekr.modeling.precision import full_precision

_ADAPTER = "default"

Share = Annotated[float, Field(gt=0, lt=1)]


class LowDirections(ModelForm):
    """A whole model, of whose linear layers the small singular directions are trained."""

    adapter = "own"
    method: Osf

    def check_model(self, model: nn.Module, max_length: int | None, tasks: int) -> None:
        smallest = min((min(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)), default=0)
        for share in {self.method.kept_share(task) for task in range(tasks)}:
            if smallest and int(smallest * share) < 1:
                raise InputError(
                    f"method.kept_rank: {share:g} of {smallest} directions is less than one; make it larger"
                )

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        share = self.method.kept_share(getattr(model.config, "osf_tasks", 0))
        try:
            adapted = get_peft_model(model, OSFConfig(effective_rank=share, task_type="CAUSAL_LM"))
        except ValueError as error:
            raise InputError(f"method osf does not fit the model: {said_by(error)}") from None
        if not _layers(adapted):  # peft passes over what it cannot decompose, such as the Conv1D layers of GPT-2
            raise InputError("method osf does not fit the model: none of its projections is a torch.nn.Linear")
        return adapted

    def load_trainable(self, base: str, weights: Path | None, *, dtype: str, lora: LoraConfig | None) -> Any:
        return self.adapt(load_stage(base, weights, dtype=dtype, trainable=True), lora)

    def stored_parameters(self, model: nn.Module, trained: int, tasks: int = 1) -> int:
        """Parameters of the whole model, whose weights peft keeps with their factors."""
        return sum(parameter.numel() for parameter in model.parameters()) - trained

    @full_precision()
    def trained(self, model: Any) -> Any:
        project(model)
        merged = model.merge_and_unload()
        merged.config.osf_tasks = getattr(merged.config, "osf_tasks", 0) + 1
        return merged


class Osf(Method):
    """Fine-tuning of the small singular directions of each linear layer's weight; the large ones are kept.

    W = U_high S_high V_high + U_low S_low V_low, where the high part holds the `kept_rank` largest singular values.
    U_low, S_low and V_low are trained, U_low orthogonal to U_high and V_low to V_high: what a weight does to and
    from its kept directions does not change at all. A stage's model is a whole one, and the next task decomposes
    it again. Embeddings, norms and the output layer are not trained.

    Args:
        kept_rank: the kept share of the singular directions, 0 < share < 1: one for every task, or a list with one
            a task, whose last goes on. null = t/(t+1) for the t-th task: the paper keeps (t−1)/n with n tasks in all,
            and a run that may go on knows no n, so one more task is reckoned with and the model's own knowledge
            counts as one that was learned.

    Source: Nayak et al., arXiv 2504.07097; the layers are peft's. Those project gradients, but AdamW rescales each
        entry and leads out of the subspace again (by a tenth of the change on small models): after each step the
        factors are projected too. The paper's kept share per layer by importance is left out, as in peft.
    """

    name = "osf"
    form = property(LowDirections)
    shards = False

    kept_rank: Share | Annotated[list[Share], Field(min_length=1)] | None = None

    def kept_share(self, task: int) -> float:
        """The kept share of the singular directions while the task (of those that are learned, from 0) is trained."""
        if self.kept_rank is None:
            return (task + 1) / (task + 2)
        if isinstance(self.kept_rank, list):
            return self.kept_rank[min(task, len(self.kept_rank) - 1)]
        return self.kept_rank

    def check_run(self, *, dtype: str, lora: bool, skills: bool) -> None:
        if dtype != "float32":
            raise InputError(
                "dtype: osf needs float32, singular directions are not orthogonal in 16 bits; for faster training set "
                "training.bf16"
            )

    def start(self, context: TaskContext) -> Objective:
        return InSubspace(self)


class InSubspace(Objective):
    """The factors are put back into their subspace before the first forward after each step."""

    moved = True

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        if self.moved:
            project(model)
            self.moved = False
        return super().task_loss(model, batch)

    def after_backward(self, model: nn.Module, step: int) -> None:
        self.moved = True


@torch.no_grad()
@full_precision()
def project(model: nn.Module) -> None:
    """Takes out of the factors of every layer what lies in the kept directions."""
    for layer in _layers(model):
        factors = cast(nn.ParameterDict, layer.osf_svd_params[_ADAPTER])
        for name, transposed in (("U_low", False), ("V_low", True)):
            factor, start = factors[name], getattr(layer, f"_osf_{name}_init")[_ADAPTER]
            change = (factor - start).T if transposed else factor - start  # so that nothing adds up over the steps
            high = getattr(layer, f"_osf_{name[0]}_high")
            if _ADAPTER in high:
                basis = high[_ADAPTER].T if transposed else high[_ADAPTER]
                change = change - basis @ (basis.T @ change)
            else:  # peft keeps no basis where the low directions span all that the kept ones leave
                basis = start.T if transposed else start
                change = basis @ (basis.T @ change)
            factor.copy_(start + (change.T if transposed else change))


def _layers(model: nn.Module) -> list[OSFLayer]:
    return [module for module in model.modules() if isinstance(module, OSFLayer)]
