"""Models and tokenizers, loaded and saved the same way everywhere: in the training dtype, adapters included."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed
from transformers.utils import logging

from seekr.data.hub import hub_or_cache
from seekr.disk.files import user_path
from seekr.disk.full import written_to
from seekr.errors import InputError, said_by
from seekr.modeling.balancing import ask_for_balance_again, without_balance
from seekr.modeling.checks import (
    check_files,
    check_is_model,
    check_kernels,
    check_no_adapter,
    check_weights,
    own_end_tokens,
)
from seekr.modeling.precision import no_autocast


def load_config_of(model: str) -> PretrainedConfig:
    """The configuration of a model folder or hub name. Raises InputError."""
    path = user_path(model)
    if path.is_absolute() and not path.is_dir():
        raise InputError(f"model: {model}: no such folder")
    check_is_model(model)
    with hub_or_cache(asked=not path.is_dir()):
        return _read_config(model)


def _read_config(model: str) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # configurations of all families, and clients of the hub, raise all kinds
        _check_code(model, error)
        if "does not appear to have a file named" in str(error):  # the hub was reached
            check_no_adapter(model)
        raise InputError(f"model: {model!r} is no model folder and no model of the hub: {said_by(error)}") from None
    check_kernels(config, model)
    return config


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer that lies next to a model. Raises InputError."""
    check_files(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        tokenizer.model_max_length = int(tokenizer.model_max_length)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        _check_code(model, error)
        raise InputError(f"model: {model!r} has no tokenizer that can be loaded: {said_by(error)}") from None
    return tokenizer


def load_model(base: str, adapter: Path | None = None, *, dtype: str, trainable: bool = False) -> Any:
    """A causal language model in `dtype`, with an adapter on top where one is given.

    `base` is a folder or hub name, `adapter` a folder of peft's. Transformers by itself would load a bfloat16
    checkpoint as bfloat16, where small steps round away, so the dtype is always said. Raises InputError.
    """
    model = _read(base, dtype)
    _drop_what_cannot_be_saved(model)
    if adapter is not None:
        model = with_saved_adapter(model, adapter, trainable=trainable)
    return model.train() if trainable else model.eval().requires_grad_(False)


def load_skeleton(base: str, *, dtype: str) -> Any:
    """The model on torch's device "meta": names and shapes of its weights are read and checked, the weights are not.

    Raises InputError as `load_model`.
    """
    return _read(base, dtype, device_map="meta").train()


def few_layers(base: str, *, dtype: str) -> tuple[Any, list[int]]:
    """A model of random weights that is as the base model but for its depth: its first layers, until each kind of layer
    that its configuration names has come; and for each layer of the base model the one of these that is of its kind.

    Raises whatever the family's code raises of a configuration that was cut.
    """
    config = load_config_of(base)
    text = config.get_text_config()
    depth, names = text.num_hidden_layers, ("layer_types", "layers_block_type")
    kinds = next((found for name in names if (found := getattr(text, name, None))), [None] * depth)
    alike = [kinds.index(kind) for kind in kinds]
    kept = 1 + max(alike)
    for key, value in vars(text).items():
        if isinstance(value, list) and len(value) == depth:
            setattr(text, key, value[:kept])
    text.num_hidden_layers = kept
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval(), alike


def _read(base: str, dtype: str, **more: Any) -> Any:
    check_files(base)
    own_end_tokens(base)  # refuses what transformers would leave aside
    try:
        with _read_whole():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                base,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
                **more,
            )
    except Exception as error:
        _check_code(base, error)
        raise InputError(f"model: {base!r} cannot be loaded as a causal language model: {said_by(error)}") from None
    model, found = loaded
    if getattr(model, "_hf_peft_config_loaded", False):  # a hub name that holds both
        check_no_adapter(base)
    check_weights(base, found)
    ask_for_balance_again(model)
    return model


def _drop_what_cannot_be_saved(model: Any) -> None:
    """Published checkpoints set a temperature without sampling; transformers loads that, and some versions refuse to
    save it. Answers go by its end tokens alone.
    """
    settings = getattr(model, "generation_config", None)
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError:
        kept = {name: getattr(settings, name, None) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
        model.generation_config = GenerationConfig(**kept)


def with_saved_adapter(model: Any, adapter: Path, *, trainable: bool) -> Any:
    """A base model with an adapter that was saved. Raises InputError."""
    check_files(adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # they would be random numbers
        try:
            if getattr(PeftConfig.from_pretrained(str(adapter)), "megatron_config", None):
                raise InputError("its adapter_config.json names a module that peft would run (megatron_core)")
            return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        except Exception as error:
            raise InputError(f"{adapter}: the adapter cannot be loaded: {said_by(error)}; restore the folder") from None


def _check_code(model: str, error: BaseException) -> None:
    """Raises InputError where a model was not loaded because it brings code, which transformers would ask about."""
    if "trust_remote_code" in str(error):
        raise InputError(
            f"model: {model!r} needs code that it brings itself (trust_remote_code), and seekr runs none; give a model "
            "of a family that transformers has, or this one converted to such"
        ) from None


@contextmanager
def _read_whole() -> Iterator[None]:
    """While a configuration of ZeRO-3 is alive, transformers cuts weights up as it reads them, by all processes
    together, whatever its `zero3_init_flag` says. Here one process may read what others do not; DeepSpeed cuts up a
    model once it is to be trained.
    """
    alive = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = alive


def load_stage(base: str, weights: Path | None, *, dtype: str, trainable: bool = False) -> Any:
    """The model of a stage's `model` folder, which holds it whole or as an adapter of `base`; None is `base` itself."""
    if weights is None or is_adapter(weights):
        return load_model(base, weights, dtype=dtype, trainable=trainable)
    return load_model(str(weights), dtype=dtype, trainable=trainable)


def is_adapter(weights: Path) -> bool:
    """Whether a `model` folder holds an adapter, or prompts, and no whole model."""
    return (weights / "adapter_config.json").is_file()


def with_adapter(model: PreTrainedModel, lora: LoraConfig) -> Any:
    """A new adapter on a base model; its weights are drawn from torch's random state. Raises InputError."""
    try:
        return get_peft_model(model, lora)
    except (ValueError, KeyError) as error:
        raise InputError(f"lora: does not fit the model: {said_by(error)}") from None


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """What gradients are measured in, no weight being changed: evaluation mode, in the memory that training takes.

    Layers that training checkpoints are checkpointed here too, which transformers does in training mode alone; unless
    the model has dropout, which that mode would bring back. Autocast to float16 is off: there gradients need a loss
    scale, which only training has.
    """
    device = next(model.parameters()).device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    model.eval()
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    if not any("drop" in key and isinstance(value, float) and value for key, value in settings.items()):
        for module in model.modules():
            module.training = getattr(module, "gradient_checkpointing", False)
    try:
        with no_autocast() if half else nullcontext():
            yield
    finally:
        model.eval()


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model, or its adapter, with its tokenizer: loads with plain transformers, or peft.

    The generation settings next to it are those that its answers were scored by. With an adapter transformers takes
    those of the base, unless it is given them: the README.md next to it has the words.
    """
    from seekr.modeling.generation import answering_settings

    settings = answering_settings(getattr(model, "generation_config", None), tokenizer)
    with without_balance(model, noted=True) as balanced, written_to(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    settings.save_pretrained(folder)
    if is_adapter(folder):
        _write_how_to_load(folder, balanced=balanced)


def _write_how_to_load(folder: Path, *, balanced: bool) -> None:
    """Adds to the README.md of an adapter how it is loaded to answer as it was scored; `balanced`: its base is."""
    about = PeftConfig.from_pretrained(str(folder))
    more = ", output_router_logits=False" if balanced else ""
    load = f"AutoModelForCausalLM.from_pretrained({{}}, generation_config=settings{more})"
    lines = ["from transformers import AutoModelForCausalLM, GenerationConfig", ""]
    if about.is_prompt_learning:
        lines = ["from peft import PeftModel", *lines]
        model = f"PeftModel.from_pretrained({load.format(repr(about.base_model_name_or_path))}, folder)"
    else:
        model = load.format("folder")
    lines += ["settings = GenerationConfig.from_pretrained(folder)  # not the base's: greedy, and its end tokens"]
    heading = ["", "## To answer as it was scored", "", "`folder` is where this file lies.", ""]
    text = "\n".join([*heading, "```python", *lines, f"model = {model}", "```", ""])
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def one_kind_of_bar() -> Iterator[None]:
    """Transformers' own bars for loading and saving stay away while ours are shown."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def parameter_count(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Parameters of a model, or only those that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
