"""The form of a model: which weights a method trains, how a stage is loaded, and how it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig
from torch import Tensor, nn

from seekr.errors import InputError
from seekr.modeling.inputs import model_inputs
from seekr.modeling.loading import load_stage, with_adapter
from seekr.modeling.shared_base import shares_base

Adapter = Literal["any", "none", "lora", "own"]


class ModelForm:
    """The model as it is, all of it trained or the LoRA adapter that a run asks for.

    Attributes:
        method: whose settings it follows.
        adapter: which weights are trained: "any" = all of them or the LoRA adapter that a run asks for, "none" = of
            the model itself alone, "lora" = a LoRA adapter, peft's default one if the run says nothing, "own" = an
            adapter or prompts that the form makes itself.
        prompts: whether prompts are learned and no weight of the model is moved.
    """

    adapter: Adapter = "any"
    prompts: bool = False

    def __init__(self, method: Any) -> None:
        self.method = method

    def lora_settings(self, lora: dict[str, Any] | Literal[False] | None) -> dict[str, Any] | None:
        """The fields of the LoRA adapter that is trained, None = no such adapter, given the key `lora` of a run.

        False says that there shall be no adapter, None nothing. Raises InputError where the method cannot do so.
        """
        name = self.method.name
        if self.adapter == "none" and lora not in (None, False):
            raise InputError(f"lora: {name} trains the weights of the model itself; leave lora out")
        if self.adapter == "own" and lora is not None:
            raise InputError(f"lora: {name} brings an adapter of its own and takes no other one; leave lora out")
        if self.adapter == "lora" and lora is False:
            raise InputError(f"lora: false cannot be with {name}, which trains LoRA adapters; leave lora out")
        if lora is None and self.adapter == "lora":
            return {}
        return None if lora is False else lora

    def virtual_tokens(self, tasks: int) -> int:
        """Positions of the model that are taken in addition to a row's own tokens once `tasks` tasks are learned."""
        return 0

    def check_model(self, model: nn.Module, max_length: int | None, tasks: int) -> None:
        """As the method's, of what is trained."""

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        """Makes the base model what is trained on the first task. Weights are drawn from torch's random state."""
        return model if lora is None else with_adapter(model, lora)

    def load_trainable(self, base: str, weights: Path | None, *, dtype: str, lora: LoraConfig | None) -> Any:
        """The model that is trained on the next task; `weights` = the newest stage's, None = `base` itself."""
        model = load_stage(base, weights, dtype=dtype, trainable=True)
        return self.adapt(model, lora) if weights is None else model

    def trained(self, model: Any) -> Any:
        """What stays of a model once its task is learned: what is measured, saved and loaded again."""
        return model

    def load(self, base: str, weights: Path | None, *, dtype: str) -> Any:
        """The model of a stage's `model` folder as it answers, frozen; None = `base` itself."""
        return load_stage(base, weights, dtype=dtype)

    def shares_base(self, model: Any) -> bool:
        """Whether an earlier state of a model can be had on the base that it has in memory, see `on_same_base`."""
        return type(self).load is ModelForm.load and shares_base(model)

    def tell_task(self, model: nn.Module, task: int) -> None:
        """Tells a loaded model the place (from 0, skills included) of the task whose prompts come next."""

    def inputs_with_answers(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a loaded model is given to say how likely the answers in a batch are, which it has to read as training
        has it read them."""
        return model_inputs(batch)

    def stored_parameters(self, model: nn.Module, trained: int, tasks: int = 1) -> int:
        """Parameters in the last stage's `model` folder: all of an adapted `model`, or the `trained` ones alone."""
        return trained if hasattr(model, "peft_config") else sum(p.numel() for p in model.parameters())
