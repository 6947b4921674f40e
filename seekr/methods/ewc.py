"""Elastic weight consolidation: weights that mattered for the tasks so far are held where these left them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import Parameter

from seekr.data.token_rows import TokenizedRow
from seekr.disk.regular import regular
from seekr.disk.tensors import save_tensors
from seekr.distributed.processes import is_main, own_share, summed
from seekr.errors import InputError
from seekr.methods.base import Method, Objective, TaskContext, batch_of
from seekr.modeling.inputs import model_inputs
from seekr.modeling.loading import measuring
from seekr.modeling.losses import answer_cross_entropy, answer_positions, logits_at
from seekr.modeling.precision import no_autocast

FILE = "ewc.safetensors"


class Ewc(Method):
    """A task step's loss is the task's cross-entropy + penalty_weight · ½ Σ_k Σ_i F_k,i (θ_i − θ*_k,i)², k being the
    tasks before it (eq. 3 of the paper).

    θ*_k are the trained weights as task k left them, F_k the diagonal of the Fisher information there: the mean over
    samples of (∂ log p(answer | prompt) / ∂θ)². The likelihood of an answer is the product over its tokens, so the
    gradient is that of the sum over them, not of their mean. The answers are those of the data (the "empirical"
    Fisher): the exact one would have the model write answers of its own.

    The quadratics of all tasks are one quadratic, so that what is kept, two float32 numbers a trained weight, does not
    grow. It lies on the disk with the stage's weights and comes to the device one parameter at a time.

    A skill is held on to as well. A run that trains an adapter cannot have one: when the skill is measured, the adapter
    has no weights yet.

    Args:
        penalty_weight: λ of the paper.
        fisher_samples: rows of each task that F is measured on, drawn by the run's seed; all where there are fewer.

    Source: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796.
    """

    name = "ewc"
    shards = False
    bytes_a_weight = 8  # its Fisher information and its anchor
    unplanned = "the Fisher information while it is measured, in CPU memory: 8 bytes a trained weight"
    free = Method.free | {"penalty_weight"}

    penalty_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1000.0
    fisher_samples: Annotated[int, Field(ge=1)] = 100

    def check_run(self, *, dtype: str, lora: bool, skills: bool) -> None:
        if lora and skills:
            raise InputError(
                "method ewc: a skill (learn: false) cannot be held on to by an adapter, which has no weights yet when "
                "the skill is measured; leave lora out, or the skill"
            )

    def check_kept(self, stages: Sequence[Path]) -> None:
        newest_quadratic(stages)

    def start(self, context: TaskContext) -> Objective:
        return self.held_by(newest_quadratic(context.stages), context)

    def pretend(self, context: TaskContext) -> Objective:
        return self.held_by(_NoNumbers(trained_parameters(context.model)), context)

    def held_by(self, quadratic: Quadratic | None, context: TaskContext) -> Objective:
        """The objective with the pull of what was kept, if there is any."""
        objective, held = super().start(context), trained_parameters(context.model)
        if quadratic is not None and quadratic.names != {name for name, _ in held}:
            raise InputError("method ewc: the weights that are trained now are not those that were measured before")
        if quadratic is not None and self.penalty_weight:
            objective.penalties["ewc"] = lambda _: self.penalty_weight * quadratic.penalty(held)
        return objective

    def remember(self, context: TaskContext) -> None:
        model = context.model
        frozen = not context.learn  # a skill's model is the base model as it answers
        if frozen:
            model.requires_grad_(True)
        parameters = trained_parameters(model)
        with measuring(model):
            fisher = measure_fisher(parameters, self._fisher_rows(context), context)
        if is_main():
            anchors = {name: parameter.detach().float().cpu() for name, parameter in parameters}
            folder = context.folder / "model" if context.learn else context.folder
            folder.mkdir(exist_ok=True)
            save_tensors(combined(newest_quadratic(context.stages), fisher, anchors), folder / FILE, encrypted=False)
        if frozen:
            model.requires_grad_(False)

    def _fisher_rows(self, context: TaskContext) -> list[TokenizedRow]:
        rows = len(context.samples)
        draw = np.random.default_rng([context.seed, context.index])
        chosen = draw.choice(rows, size=min(self.fisher_samples, rows), replace=False)
        return [context.samples[index] for index in np.sort(chosen)]


def trained_parameters(model: nn.Module) -> list[tuple[str, Parameter]]:
    """(name, parameter) of all that is trained, in the order of the model."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def measure_fisher(
    parameters: list[tuple[str, Parameter]], rows: list[TokenizedRow], context: TaskContext
) -> dict[str, Tensor]:
    """Mean over rows of the squared gradient of each row's answer log-likelihood; float32, in CPU memory.

    Each process measures its share of the rows.
    """
    sums = {name: torch.zeros(parameter.shape) for name, parameter in parameters}
    own = own_share(len(rows))
    with squared_gradients(parameters, sums), context.track(f"measuring {context.task}", len(own)) as advance:
        for place in own:
            batch = batch_of([rows[place]], context)
            logits = logits_at(context.model, model_inputs(batch), *answer_positions(batch["labels"]))
            loss = answer_cross_entropy(logits, batch["labels"], torch.ones(1, device=logits.device))
            with no_autocast():  # as in training, where the backward comes after it
                loss.backward()
            advance(1)
    return {name: summed(total, context.device).div_(len(rows)) for name, total in sums.items()}


@contextmanager
def squared_gradients(parameters: list[tuple[str, Parameter]], sums: dict[str, Tensor]) -> Iterator[None]:
    """Adds the square of every gradient to `sums` and drops it, so that no two parameters have theirs at once."""

    def hook(name: str) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            assert parameter.grad is not None
            sums[name] += parameter.grad.float().square().cpu()
            parameter.grad = None

        return add

    for _, parameter in parameters:
        parameter.grad = None
    with ExitStack() as hooks:
        for name, parameter in parameters:
            hooks.enter_context(parameter.register_post_accumulate_grad_hook(hook(name)))
        yield


class Quadratic:
    """½ (Σ_i F_i (θ_i − anchor_i)² + constant), read from a file by memory map, one parameter at a time."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(regular(path), framework="pt")
        self.names = {key.removeprefix("fisher.") for key in self._file.keys() if key.startswith("fisher.")}  # noqa: SIM118
        self.constant = self._file.get_tensor("constant").item()

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """F and the anchor of one parameter: float32, in CPU memory."""
        return self._file.get_tensor(f"fisher.{name}"), self._file.get_tensor(f"anchor.{name}")

    def penalty(self, parameters: list[tuple[str, Parameter]]) -> Tensor:
        """The value at these weights: Tensor[], float32, differentiable in them."""
        terms = [_Term.apply(parameter, lambda name=name: self.read(name)) for name, parameter in parameters]
        return torch.stack(terms).sum() + self.constant / 2


class _NoNumbers(Quadratic):
    """One of tensors that have no numbers, for plans."""

    def __init__(self, trained: list[tuple[str, Parameter]]) -> None:
        self.constant = 0.0
        self._shapes = {name: parameter.shape for name, parameter in trained}
        self.names = set(self._shapes)

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        return torch.empty(self._shapes[name]), torch.empty(self._shapes[name])


class _Term(torch.autograd.Function):
    """½ Σ F (θ − anchor)² of one parameter; F and the anchor are on its device only while they are looked at."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, read: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(parameter)
        ctx.read = read
        fisher, anchor = (tensor.to(parameter.device) for tensor in read())
        return (fisher * (parameter.float() - anchor).square()).sum() / 2

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (parameter,) = ctx.saved_tensors
        fisher, anchor = (tensor.to(parameter.device) for tensor in ctx.read())
        return (upstream * fisher * (parameter.float() - anchor)).to(parameter.dtype), None


def combined(kept: Quadratic | None, fisher: dict[str, Tensor], anchors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The quadratic that is the sum of what was kept and of the newest task's, as it is written.

    F_1 (θ − a_1)² + F_2 (θ − a_2)² = F (θ − a)² + F_1 F_2 / F · (a_1 − a_2)², with F = F_1 + F_2 and
    a = a_1 + F_2 / F · (a_2 − a_1). Where F is 0 the anchor does not matter. `fisher` and `anchors` are overwritten.
    """
    constant = torch.zeros((), dtype=torch.float64)
    if kept is not None:
        constant += kept.constant
        for name in fisher:
            old_fisher, old_anchor = kept.read(name)
            distance = anchors[name] - old_anchor
            weight = (fisher[name] / (fisher[name] + old_fisher)).nan_to_num_(0.0)
            constant += (old_fisher * weight * distance.square()).sum(dtype=torch.float64)
            anchors[name] = old_anchor + weight * distance
            fisher[name] += old_fisher
    written = {"constant": constant}
    written |= {f"fisher.{name}": tensor.contiguous() for name, tensor in fisher.items()}
    return written | {f"anchor.{name}": tensor.contiguous() for name, tensor in anchors.items()}


def newest_quadratic(stages: Sequence[Path]) -> Quadratic | None:
    """What the newest of the stages has kept; None without any. Raises InputError where it is missing."""
    if not stages:
        return None
    stage = stages[-1]
    path = stage / "model" / FILE if (stage / "model").is_dir() else stage / FILE
    if not path.is_file():
        raise InputError(f"{path}: missing; restore it or learn the task again")
    return Quadratic(path)
