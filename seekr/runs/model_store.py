"""The models of a run: how they are loaded, averaged, saved, and cut into parts over the processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from seekr.disk.files import clear_folder
from seekr.disk.full import written_to
from seekr.distributed.processes import is_main, process_count, wait_for_all
from seekr.distributed.sharded import load_sharded
from seekr.methods import Method
from seekr.methods.averaging import average_weights
from seekr.modeling.loading import load_stage, save_model
from seekr.modeling.shared_base import on_same_base
from seekr.runs.folder import has_weights


@dataclass(frozen=True)
class ModelStore:
    """The base model and those of the stages, in the form that the method gives them.

    Weights are named by a stage's `model` folder, None = the base model.

    Attributes:
        base: folder or hub name.
        dtype: of the weights.
        arguments: of the training: where models go, and its precision.
        sharded: whether what is trained is spread over the processes, by FSDP or DeepSpeed.
    """

    base: str
    dtype: str
    method: Method
    lora: LoraConfig | None
    tokenizer: PreTrainedTokenizerBase
    arguments: TrainingArguments
    sharded: bool

    @property
    def device(self) -> torch.device:
        """Where models go: what transformers chooses for these training settings."""
        return self.arguments.device

    @property
    def shards_frozen(self) -> bool:
        """Whether frozen models are sharded too. Methods with prompts of their own ask a model for its embeddings
        alone, which a sharded one does not gather.
        """
        return self.sharded and process_count() > 1 and self.method.form.adapter != "own"

    def precision(self) -> torch.autocast:
        """The autocast that training runs under: a teacher read in another precision would differ by its noise."""
        dtype = torch.float16 if self.arguments.fp16 else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.arguments.bf16 or self.arguments.fp16)

    def trainable(self, weights: Path | None) -> Any:
        """The model that is trained on the next task, on the CPU."""
        return self.method.form.load_trainable(self.base, weights, dtype=self.dtype, lora=self.lora)

    def frozen(self, weights: Path | None, dtype: str | None = None) -> Any:
        """The model as it answers, on the device. All processes call it."""
        return self._on_device(lambda: self.method.form.load(self.base, weights, dtype=dtype or self.dtype))

    def before(self, model: Any, weights: Path | None) -> Any:
        """`frozen` of the weights that `model` was trained from. Where that has a LoRA adapter its base is not read
        again, and is in memory once for both. All processes call it.
        """
        if self.sharded or not self.method.form.shares_base(model):
            return self.frozen(weights)
        return on_same_base(model, weights).to(self.device)

    def plain(self) -> Any:
        """The base model without anything of the method's, on the device. All processes call it."""
        return self._on_device(lambda: load_stage(self.base, None, dtype=self.dtype))

    def _on_device(self, load: Callable[[], Any]) -> Any:
        return load_sharded(load, self.device) if self.shards_frozen else load().to(self.device)

    def settled(self, model: Any, start: Path | None, *, seed: int) -> Any:
        """What stays of a model that was trained from `start` on, in evaluation mode: averaged with it where asked.

        Nothing is written before, so that a run which is stopped here averages what its checkpoint holds: once.
        `seed`: that an adapter was drawn by when the task began.
        """
        on_base = self.method.form.shares_base(model) and (start is not None or _begins_with_nothing(self.lora))
        model = self.method.form.trained(model)
        if self.method.average is not None:
            if self.lora is not None:
                set_seed(seed)
            before = self._on_base_of(model, start) if on_base else self._begun(start)
            average_weights(model, before, self.method.average)
        return model.eval()

    def _begun(self, start: Path | None) -> Any:
        """The model as its task began."""
        if self.lora is None:
            return self.method.form.load(self.base, start, dtype=self.dtype)
        return self.method.form.trained(self.trainable(start))

    def _on_base_of(self, model: Any, start: Path | None) -> Any:
        """The same without a second base in memory."""
        before, form = on_same_base(model, start), self.method.form
        return form.trained(form.adapt(before, self.lora)) if start is None else before

    def read_back(self, start: Path | None, working: Path, *, seed: int) -> Any:
        """The trained model that `save_whole` wrote to `working`, settled.

        A sharded one is frozen and cannot be saved: its `model` folder is written before, in `working`.
        """
        whole, written = working / "whole", working / "model"
        if not self.shards_frozen:
            return self.settled(self.trainable(whole), start, seed=seed).to(self.device)
        if is_main():
            clear_folder(written)  # of an attempt that was stopped
            save_model(self.settled(self.trainable(whole), start, seed=seed), self.tokenizer, written)
            shutil.rmtree(whole)
        wait_for_all()
        return self.frozen(written)

    def save(self, model: Any, working: Path, folder: Path) -> None:
        """Puts the `model` folder of a task that is learned into the `folder` of its stage."""
        if self.shards_frozen:
            (working / "model").replace(folder / "model")
        else:
            save_model(model, self.tokenizer, folder / "model")


def _begins_with_nothing(lora: LoraConfig | None) -> bool:
    """Whether one factor of a new adapter is 0, so that its average does not depend on how the other was drawn."""
    return lora is not None and lora.init_lora_weights in (True, "gaussian")


def save_whole(model: Any, state: dict[str, Any], folder: Path) -> None:
    """Writes a model whose parameters are sharded over several processes, `state` being all of them, gathered."""
    if is_main():
        with written_to(folder):
            model.save_pretrained(folder, state_dict=state)
    wait_for_all()


def newest_weights(stages: list[Path]) -> Path | None:
    """What the next task starts from: the `model` folder of the newest of some stages that has one, None = the base."""
    return next((stage / "model" for stage in reversed(stages) if has_weights(stage)), None)
