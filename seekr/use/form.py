"""What a stage's `model` folder holds, and whether plain transformers or peft can do with it what its method does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from seekr.disk.regular import read_bytes, regular
from seekr.errors import InputError
from seekr.methods import Method
from seekr.methods.form import ModelForm
from seekr.modeling.loading import is_adapter, load_skeleton, load_tokenizer

WHOLE, ADAPTER, PROMPTS = "model", "adapter", "prompts"


@dataclass(frozen=True)
class ExportForm:
    """A folder to be exported.

    Attributes:
        kind: a whole model, a LoRA adapter, or prompts of peft's.
        chat: whether its tokenizer has a chat template.
        rank: of the adapter.
        odd: what of the adapter vLLM does not take; "" = nothing.
        balanced: whether its base asks for a balancing loss of experts, which answers must not.
    """

    kind: str
    chat: bool
    rank: int = 0
    odd: str = ""
    balanced: bool = False


def form_of(weights: Path, method: Method, *, merge: bool) -> ExportForm:
    """The form in which a stage's folder is exported. Raises InputError where it is torn, or nothing plain loads it."""
    chat = bool(getattr(load_tokenizer(str(weights)), "chat_template", None))
    own = type(method.form).load is not ModelForm.load
    if not is_adapter(weights):
        if own:
            raise InputError(f"{weights}: {method.name} loads its model by code of its own, which transformers has not")
        load_skeleton(str(weights), dtype="float32")
        return ExportForm(WHOLE, chat)
    about, names = _adapter(weights)
    if own and "prompt_embeddings" not in names:
        raise InputError(
            f"{weights}: {method.name} answers by code of its own (it chooses among what it learned for each input), "
            "which plain peft has not; `seekr chat` and `seekr score` have"
        )
    if own and merge:
        raise InputError(f"--merge: {method.name} has learned prompts, which are no weights of the model; leave it out")
    if merge:
        return ExportForm(WHOLE, chat)
    odd = [key for key in ("use_dora", "modules_to_save") if about.get(key)]
    odd += ["bias"] * (about.get("bias", "none") != "none")
    rank = max([int(about.get("r") or 0), *(about.get("rank_pattern") or {}).values()])
    readme = weights / "README.md"  # says how a base is loaded that asks for the loss
    balanced = readme.is_file() and "output_router_logits=False" in read_bytes(readme).decode()
    return ExportForm(PROMPTS if own else ADAPTER, chat, rank, ", ".join(odd), balanced)


def _adapter(weights: Path) -> tuple[dict, set[str]]:
    try:
        about = json.loads(read_bytes(weights / "adapter_config.json"))
        with safe_open(regular(weights / "adapter_model.safetensors"), framework="pt") as tensors:
            return dict(about), set(tensors.keys())
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(f"{weights}: the adapter cannot be read ({error}); restore the folder") from None
