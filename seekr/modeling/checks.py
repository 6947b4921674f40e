"""What a model must be to be trained on: a model and no adapter, all of its weights there, a place for every token."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME, cached_file, find_adapter_config_file

from seekr.data.task_data import TaskData
from seekr.disk.files import parse_json
from seekr.disk.regular import read_bytes, regular
from seekr.errors import InputError, said_by, some

_NO_WEIGHTS = (
    "inv_freq", "cos_cached", "sin_cached", "position_ids", "masked_bias", "causal_mask", "attn.bias", "attention.bias",
)  # fmt: skip
"""How names end of what older libraries wrote next to the weights, positions and masks: it follows from the
configuration."""

_WRAPPERS = {
    "_orig_mod.": "the model was saved as torch.compile wraps it: save what is inside of it, model._orig_mod",
    "module.": "the model was saved as a data-parallel wrapper holds it: save what is inside of it, model.module",
    "base_model.model.": "the model was saved with peft around it: save model.merge_and_unload()",
}


def check_files(folder: str | Path) -> None:
    """Raises InputError where whoever loads what is in a folder would wait for a FIFO, or leave the folder; hub names
    have none."""
    for path in sorted(Path(folder).glob("*")):
        if path.exists() and not path.is_dir():
            regular(path)
    for index in Path(folder).glob("*.index.json"):
        try:
            names = set(parse_json(read_bytes(index).decode())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # whoever loads it says so
        if away := [name for name in names if Path(str(name)).name != name]:
            raise InputError(f"{index}: {away[0]!r} is outside of the folder; weights lie next to their index")


def check_is_model(model: str) -> None:
    """Raises InputError where a folder is an adapter, or a run of seekr, in place of a model."""
    path = Path(model)
    if (path / "run.json").is_file() and (path / "stages").is_dir():
        raise InputError(
            f"model: {model} is a run of seekr; a model of it lies in {path / 'stages'}/NN-TASK/model, and "
            f"`seekr learn --from {model} --task NAME=PATH` goes on with it"
        )
    if path.is_dir():
        check_files(path)
        check_no_adapter(model)


def check_no_adapter(model: str) -> None:
    """Raises InputError where a folder or hub name is an adapter; the hub is asked for it."""
    try:
        found = find_adapter_config_file(model)
        about = None if found is None else json.loads(read_bytes(Path(found)))
        base = None if about is None else str(about.get("base_model_name_or_path") or "its base model")
        joins = about is not None and not str(about.get("peft_type")).startswith(("PROMPT", "PREFIX", "P_TUNING"))
    except Exception:  # no such name, no network, not JSON: whoever loads the model says so
        return
    if base is not None:
        join = (
            f"; or join them, peft.AutoPeftModelForCausalLM.from_pretrained({model!r}).merge_and_unload()"
            ".save_pretrained(FOLDER), put the tokenizer next to it, and give that folder"
        )
        raise InputError(
            f"model: {model} is an adapter of {base}, no model. Give model: {base} to begin without it"
            f"{join if joins else ''}"
        )


def own_end_tokens(model: str) -> list[int]:
    """The tokens at which the generation_config.json of a folder or hub name ends answers; none where it names none.

    Raises InputError where it cannot be read: transformers then leaves it aside, and with it these tokens.
    """
    quiet = (f"_raise_exceptions_for_{kind}" for kind in ("missing_entries", "gated_repo", "connection_errors"))
    try:
        file = cached_file(model, GENERATION_CONFIG_NAME, **dict.fromkeys(quiet, False))
    except Exception:  # no such name: whoever loads the model says so
        return []
    if file is None:
        return []
    try:
        named = GenerationConfig.from_dict(json.loads(read_bytes(Path(file)))).eos_token_id
        ends = [] if named is None else named if isinstance(named, list) else [named]
        right = all(type(end) is int for end in ends)
        fault = None if right else f"eos_token_id {str(named)[:60]!r} is no token id, nor a list of them"
    except Exception as error:  # not JSON, not an object, or settings that contradict each other
        fault = f"{type(error).__name__}: {said_by(error)}"
    if fault:
        raise InputError(
            f"model: {model}: its {GENERATION_CONFIG_NAME}, which names the tokens that end an answer, cannot be read: "
            f"{fault}; mend it, or remove it if the tokenizer's end token is the only one"
        )
    return ends


def end_token_note(model: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What to know of a model whose generation_config.json ends answers at other tokens than the tokenizer's end token,
    with which they are trained to end: one of the two may be wrong. Raises InputError where it cannot be read."""
    ends = own_end_tokens(model)
    if not ends or tokenizer.eos_token_id in ends:
        return None
    others = [repr(tokenizer.convert_ids_to_tokens(end) if 0 <= end < len(tokenizer) else end) for end in ends]
    return (
        f"answers are trained to end with {tokenizer.eos_token!r}, the tokenizer's eos_token, where its "
        f"{GENERATION_CONFIG_NAME} ends them at {some(others, 3)}; "
        "if the model's own answers end so, make that the eos_token in tokenizer_config.json"
    )


def check_weights(model: str, found: Mapping[str, Any]) -> None:
    """Raises InputError where weights are not those of the model: missing, of another shape, or without a place.

    Args:
        model: the folder or hub name.
        found: what transformers reports of loading it.
    """
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not name.endswith(_NO_WEIGHTS))
    mismatched = sorted(found["mismatched_keys"])
    faults = []
    if missing:
        faults.append(f"lack {_some(missing)}, which would be random")
    if mismatched:
        shapes = [f"{name} {tuple(there)} in place of {tuple(here)}" for name, there, here in mismatched]
        faults.append(f"hold {_some(shapes)}")
    if unexpected:
        faults.append(f"hold {_some(unexpected)}, which the model has no place for")
    if faults:
        raise InputError(
            f"model: the weights of {model} {'; they '.join(faults)}: {_mend(missing, unexpected, mismatched)}"
        )


def _mend(missing: Collection[str], unexpected: Collection[str], mismatched: Collection[Any]) -> str:
    prefix = _prefix(missing, unexpected)
    if prefix in _WRAPPERS:
        return _WRAPPERS[prefix]
    if prefix:
        return f"the names there begin with {_short(prefix)!r}; take that off, and save the model again"
    if mismatched:
        return "its config.json is not that of these weights; give a folder of which both were saved together"
    if missing:
        return "give a folder that was saved whole, or one of another architecture in its config.json"
    return (
        "if the model answers as it should without them, load it with transformers and save it with save_pretrained; "
        "if not, its config.json names another architecture"
    )


def _prefix(missing: Collection[str], unexpected: Collection[str]) -> str:
    """What all unexpected names have in front of those of missing ones; "" = nothing."""
    first = next(iter(unexpected), "")
    found = (first.removesuffix(name) for name in missing if first.endswith(name))
    return next((prefix for prefix in found if {name.removeprefix(prefix) for name in unexpected} <= set(missing)), "")


def check_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[TaskData]) -> None:
    """Raises InputError where a token of the rows, of padding or of an answer's end has no embedding."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = min(len(table.weight) for table in tables if table is not None)  # type: ignore[arg-type]
    used = {"the padding token": tokenizer.pad_token_id, "the end token": tokenizer.eos_token_id}
    for data in tasks:
        rows_of_tokens = (*(row.input_ids for row in (*data.samples, *data.test_rows)), *data.test_prompts)
        ids = [int(tokens.max()) for tokens in rows_of_tokens]
        used[f"a token of task {data.task.name!r}"] = max(ids, default=None)
    for what, token in used.items():
        if token is not None and token >= rows:
            name = str(tokenizer.convert_ids_to_tokens(int(token)))[:40]
            raise InputError(
                f"model: its embeddings have {rows} rows, and {what} has the id {token} ({name!r}): tokens were added "
                "to the tokenizer alone. Call model.resize_token_embeddings(len(tokenizer)), save the model, and give "
                "that folder"
            )


def _some(names: Sequence[str]) -> str:
    return some(list(map(_short, names)), 2)


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:30]}…{name[-49:]}"


def check_not_quantized(model: str, config: PretrainedConfig) -> None:
    """Raises InputError where weights are kept in fewer bits than they are trained in."""
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"model: the weights of {model} are quantized, and seekr has no way to train and measure on such; "
            "give the model in 16 or 32 bits, with lora and dtype: bfloat16 where memory is short"
        )


def check_loss_scale(model: nn.Module) -> None:
    """Raises InputError where weights that fp16's loss scale cannot train are trained: those in float16."""
    if any(parameter.requires_grad and parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise InputError(
            "dtype: float16 cannot be with training.fp16, whose loss scale needs float32 weights to train; set dtype: "
            "float32, or train an adapter (lora)"
        )


def check_kernels(config: PretrainedConfig, model: str) -> None:
    """No code of the hub attends, or computes experts, because a model's config.json asks for it. Raises InputError."""
    for part in (config, *(part for part in vars(config).values() if isinstance(part, PretrainedConfig))):
        for name, value in vars(part).items():
            key = name.strip("_").removesuffix("_internal")
            if key.endswith("_implementation") and not re.fullmatch(r"[\w|]*", str(value or "")):
                raise InputError(
                    f"model: the config.json of {model!r} asks for {key} {value!r}, code of the hub; seekr runs none "
                    "that comes with a model; remove the key there"
                )
