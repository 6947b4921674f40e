"""Soft prompts by peft: learned virtual tokens in front of each row's own, on a model that stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModelForCausalLM, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from seekr.disk.regular import regular
from seekr.errors import InputError
from seekr.methods.form import ModelForm
from seekr.modeling.inputs import position_ids
from seekr.modeling.loading import load_model
from seekr.modeling.precision import no_autocast

WEIGHTS = "adapter_model.safetensors"
_OWN = "prompt_encoder.default."


class SoftPromptModel(PeftModelForCausalLM):
    """A frozen causal language model with virtual tokens between the padding on a row's left and its first token.

    It is called as the model itself is, and gives logits of the real tokens alone. peft's own class counts positions
    from the padding on, so that an answer depends on the batch it is generated in, and gives logits of all tokens.
    The virtual tokens are float32, whatever the model's dtype: small steps would round away in bfloat16.

    Args:
        model: a causal language model of transformers; it is frozen.
        tokens: how many virtual tokens peft makes; they begin as those of random entries of the vocabulary.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=tokens,
            prompt_tuning_init="SAMPLE_VOCAB",
            base_model_name_or_path=model.name_or_path,
        )
        super().__init__(model.requires_grad_(False), config)

    @property
    def encoder(self) -> Any:
        """peft's module that owns the virtual tokens, `embedding.weight` [tokens, width], and all else that is kept."""
        return self.prompt_encoder["default"]

    def embed(self, input_ids: Tensor) -> Tensor:
        """The model's own embeddings of real tokens, [rows, length, width]."""
        embeddings: Any = self.word_embeddings
        return cast(Tensor, embeddings(input_ids))

    def prefix(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What stands before each row: [rows, virtual tokens, width]. The rows hold prompts, without answers."""
        return self.encoder.embedding.weight.expand(len(input_ids), -1, -1)

    @override
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:  # type: ignore[override]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.forward_behind(self.prefix(input_ids, mask), input_ids, mask, **options)

    def forward_behind(
        self, prefix: Tensor, input_ids: Tensor, attention_mask: Tensor, *, position_ids: Any = None, **options: Any
    ) -> Any:
        """The model's output at the real tokens, given what stands before them; `position_ids` are counted again."""
        inputs = self._inputs_behind(prefix, input_ids, attention_mask)
        kept = options.get("logits_to_keep")
        if isinstance(kept, Tensor):  # real tokens, which follow the prefix: a mask or positions
            width = prefix.shape[1]
            kept = nn.functional.pad(kept, (width, 0)) if kept.dtype == torch.bool else kept + width
            return self.base_model(**inputs, **options | {"logits_to_keep": kept})
        output = self.base_model(**inputs, **options)
        output.logits = output.logits[:, -input_ids.shape[1] :]
        return output

    @override
    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """`input_ids` [rows, length], padded on the left, and the new tokens after them, as transformers' own."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = self._inputs_behind(self.prefix(input_ids, mask), input_ids, mask)
        del inputs["position_ids"]  # generate() counts the same ones, and those of the new tokens
        base: Any = self.base_model
        return torch.cat([input_ids, base.generate(**inputs, **options)], dim=1)

    def _inputs_behind(self, prefix: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(input_ids)
        with no_autocast():  # it joins no weights in 16 bits of another kind than its own
            embeddings = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
        mask = torch.cat([attention_mask.new_ones(len(prefix), prefix.shape[1]), attention_mask], dim=1)
        # Padding on the left goes before the prefix: in a hole after it, a sliding window would count it.
        padding = (attention_mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        place, width = torch.arange(mask.shape[1], device=mask.device), prefix.shape[1]
        after = torch.where(place < padding + width, place - padding, place)
        source = torch.where(place < padding, place + width, after)
        mask = mask.gather(1, source)
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        return {"inputs_embeds": embeddings[rows, source], "attention_mask": mask, "position_ids": position_ids(mask)}

    def to_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of the encoder's `state` is written, by the names in the file; peft reads "prompt_embeddings"."""
        return {"prompt_embeddings": state["embedding.weight"]}

    def from_file(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `to_file` gave."""
        with torch.no_grad():
            self.encoder.embedding.weight.copy_(tensors["prompt_embeddings"])

    @override
    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, state_dict: Mapping[str, Tensor] | None = None, is_main_process: bool = True,
        **_: Any,
    ) -> None:  # fmt: skip
        """Writes peft's two files of an adapter. The Trainer's checkpoints come by here too."""
        if not is_main_process:
            return
        state = self.state_dict() if state_dict is None else state_dict
        tensors = self.to_file({name.removeprefix(_OWN): t for name, t in state.items() if name.startswith(_OWN)})
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        config: Any = copy.copy(self.peft_config["default"])
        config.inference_mode = True
        config.num_virtual_tokens = len(tensors.get("prompt_embeddings", self.encoder.embedding.weight))
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(save_directory))
        save_file(tensors, Path(save_directory) / WEIGHTS, metadata={"format": "pt"})

    @override
    def load_adapter(self, model_id: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Takes over what `save_pretrained` wrote. The Trainer resumes by this; peft's own refuses to train prompts."""
        self.from_file(load_file(regular(Path(model_id) / WEIGHTS)))


class SoftPromptForm(ModelForm):
    """Soft prompts, `prompt_tokens` of the method, before each row of a frozen model."""

    adapter = "own"
    prompts = True

    def check_model(self, model: nn.Module, max_length: int | None, tasks: int) -> None:
        name = self.method.name
        if "inputs_embeds" not in signature(model.forward).parameters:
            raise InputError(f"model: {type(model).__name__} takes no embeddings, so {name} cannot learn prompts")
        config: Any = model.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        virtual = self.virtual_tokens(tasks)
        if positions is None or max_length is None or max_length + virtual <= positions:
            return
        room = positions - virtual
        mend = f"give max_length {room} or less" if room >= 2 else "make the prompts shorter"
        raise InputError(
            f"max_length: {max_length} and the {virtual} virtual tokens of {name} ({tasks} tasks) are more than "
            f"the {positions} positions of the model; {mend}"
        )

    def adapt(self, model: Any, lora: LoraConfig | None) -> Any:
        return SoftPromptModel(model, self.method.prompt_tokens)

    def load_trainable(self, base: str, weights: Path | None, *, dtype: str, lora: LoraConfig | None) -> Any:
        model = super().load_trainable(base, None, dtype=dtype, lora=lora)
        if weights is not None:
            self.continue_from(model, weights)
        return model

    def continue_from(self, model: Any, weights: Path) -> None:
        """Makes the prompts of the newest stage those that the next task begins with."""
        model.load_adapter(weights)

    def load(self, base: str, weights: Path | None, *, dtype: str) -> Any:
        model = load_model(base, dtype=dtype)
        if weights is None:
            return model
        with torch.random.fork_rng(devices=[]):  # new prompts are drawn, only to be overwritten
            prompted = self.adapt(model, None)
        prompted.load_adapter(weights)
        return prompted.eval().requires_grad_(False)


def prompt_mask(attention_mask: Tensor, labels: Tensor) -> Tensor:
    """[rows, length]: the tokens before each row's last answer, which are the prompt when that is generated."""
    place = torch.arange(labels.shape[1], device=labels.device)
    return attention_mask * (place < answer_starts(labels)[:, None])


def answer_starts(labels: Tensor) -> Tensor:
    """[rows]: where the last answer of each row of labels [rows, length] begins; the length if it has none."""
    is_answer = labels != -100
    first = is_answer & ~nn.functional.pad(is_answer, (1, -1))
    place = torch.arange(labels.shape[1], device=labels.device)
    start = torch.where(first, place, -1).amax(dim=1)
    return torch.where(start < 0, labels.shape[1], start)
