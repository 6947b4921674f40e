"""`seekr export`: a stage as a plain model folder with its card, on the disk and, where asked, on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from seekr.disk.files import clear_folder
from seekr.disk.full import written_to
from seekr.disk.regular import read_bytes
from seekr.errors import InputError, RunError, said_by
from seekr.methods import make_method
from seekr.modeling.generation import only_asked
from seekr.modeling.loading import is_adapter, load_model, load_tokenizer, one_kind_of_bar, save_model
from seekr.runs.folder import partial_folder, stage_under_construction
from seekr.runs.run import Run
from seekr.use.card import card, public_name
from seekr.use.form import WHOLE, ExportForm, form_of
from seekr.use.hub import check_upload, upload
from seekr.use.stage import choose, load

_COPIED = (
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "adapter_model.safetensors",
)  # fmt: skip
"""What goes along of a `model` folder. A method may keep things of its own next to it, which do not."""


@dataclass(frozen=True)
class Exported:
    """What was written: the card, and lines on what is left to do or to know."""

    card: str
    notes: tuple[str, ...] = ()


@one_kind_of_bar()
def export(
    folder: Path,
    output: Path | None,
    *,
    stage: str | None = None,
    merge: bool = False,
    push: str | None = None,
    dry_run: bool = False,
    api: Callable[[], HfApi] | None = None,
) -> Exported:
    """Writes a stage of a run, None = the newest, to `output`, which is new or empty, whole or not at all.

    Args:
        merge: a LoRA adapter and its base as one model.
        push: OWNER/NAME on the hub that it is uploaded to.
        dry_run: nothing is written or uploaded; the card alone is made, and `output` may be None.
        api: makes the client of the hub.

    Raises:
        InputError: nothing was written.
        RunError: the merged model does not answer as the stage does, or the hub did not take it.
    """
    run = Run(folder)
    if output is None and not dry_run:
        raise InputError("export: say where to: --output DIR")
    if output is not None:
        check_output(output, run)
    chosen, weights = choose(run, stage)
    method = make_method(run.config.method)
    form = form_of(weights, method, merge=merge)
    client = check_upload(push, api, dry_run=dry_run)
    name = push or (output or run.folder).resolve().name
    words = ["seekr export", run.folder.resolve().name, f"--stage {chosen.name}", *["--merge"] * merge]
    text = card(run, chosen, method, form, name=name, command=" ".join(words))
    if output is None or dry_run:
        return Exported(text)
    notes = _write(run, weights, form, text, output.resolve())
    if client is not None:
        notes.append(upload(client, name, output))
    return Exported(text, tuple(notes))


def check_output(output: Path, run: Run) -> None:
    """Raises InputError where a folder is not free to be written to."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"--output {output}: is there already; give a new or an empty folder")
    if run.folder.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"--output {output}: is in the folder of the run, which stays as it is; give another one")


def _write(run: Run, weights: Path, form: ExportForm, text: str, output: Path) -> list[str]:
    notes = []
    tokenizer = load_tokenizer(str(weights))
    try:
        with written_to(output), stage_under_construction(output) as partial:
            if form.kind == WHOLE and is_adapter(weights):
                notes.append(_merge(run, weights, tokenizer, partial))
            else:
                for pattern in _COPIED:
                    for file in weights.glob(pattern):
                        shutil.copyfile(file, partial / file.name)
                tokenizer.save_pretrained(partial)
                if is_adapter(weights):
                    notes += _write_adapter_config(run, weights, partial)
            (partial / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror or error}") from None
    finally:
        clear_folder(partial_folder(output))
    return notes


def _write_adapter_config(run: Run, weights: Path, folder: Path) -> list[str]:
    """Its base by a name that anyone may read, in place of a path of this machine."""
    about = json.loads(read_bytes(weights / "adapter_config.json"))
    named = about["base_model_name_or_path"] = public_name(run.config.model)
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if named == run.config.model:
        return []
    return [
        f"adapter_config.json: base_model_name_or_path is {named}, the name of a local folder: whoever loads the "
        "adapter says where that lies, or sets it there"
    ]


def _merge(run: Run, weights: Path, tokenizer: Any, folder: Path) -> str:
    """Writes an adapter and its base as one model, and reads it again. Raises RunError where it answers otherwise.

    Rounding to 16 bits moves logits by per cents, in float32 hardly.
    """
    model, _ = load(run, weights)
    dtype = run.config.dtype
    ids = torch.linspace(0, model.config.get_text_config().vocab_size - 1, min(64, run.record["max_length"])).long()
    before = _logits(model, ids[None])
    _untie(model.get_base_model())
    try:
        save_model(model.merge_and_unload(safe_merge=True), tokenizer, folder)
    except ValueError as error:
        raise RunError(f"--merge: {said_by(error)}; export the adapter instead") from None
    del model
    moved = (_logits(load_model(str(folder), dtype=dtype), ids[None]) - before).abs().max() / before.abs().max()
    if not moved <= (1e-3 if dtype == "float32" else 0.1):
        raise RunError(
            f"--merge: the merged model's logits differ from the stage's by {moved:.1%} of the largest; export the "
            "adapter instead"
        )
    return f"merged: its logits differ from the stage's by {moved:.1e} of the largest ({dtype})"


def _logits(model: Any, ids: Tensor) -> Tensor:
    with only_asked(model):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()


def _untie(base: Any) -> None:
    """Gives the output layer weights of its own where they are those of the input and an adapter changes either."""
    tables = [base.get_input_embeddings(), base.get_output_embeddings()]
    first, last = (getattr(table, "base_layer", table) for table in tables)
    adapted = any(hasattr(table, "base_layer") for table in tables)
    if adapted and last is not None and first.weight is last.weight:
        last.weight = nn.Parameter(last.weight.detach().clone(), requires_grad=False)
