"""Writing what is kept of a past task: each process its share of the samples, one shard at most in its RAM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import StoredForm, TeacherForm, automatic_form, encode
from seekr.attention.tap import Tap
from seekr.data.token_rows import TokenizedRow, answer_tokens
from seekr.disk.files import PRIVATE, file_digest
from seekr.disk.tensors import save_tensors
from seekr.distributed.processes import gathered, in_step, is_main, wait_for_all
from seekr.memory.about import VERSION
from seekr.modeling.batches import collate
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import TopLogits, answer_positions, logits_at

_SHARD_BYTES = 1 << 28


class MemoryWriter:
    """Writes a memory folder, of which there is one however many processes write it.

    The main process writes the samples and the index; each process adds the teacher's signals of its own stretch of the
    samples, to shards of its own.

    Args:
        folder: the folder to make; `close` writes its `memory.json` last.
        samples: all that are kept, the same on every process.
        task: the task's name.
        tokenizer_fingerprint, model_fingerprint: what the memory belongs to.
        heads: layer → chosen heads; None where no attention is kept.
        form: how attention is kept.
        facts: what is known of the memory from the beginning, as for `note`.
        encrypt: whether rows and signals are encrypted, see `seekr.disk.sealed`.
    """

    def __init__(
        self,
        folder: Path,
        samples: Sequence[TokenizedRow],
        *,
        task: str,
        tokenizer_fingerprint: str,
        model_fingerprint: str,
        heads: Mapping[int, Tensor] | None = None,
        form: TeacherForm = "auto",
        facts: Mapping[str, Any] | None = None,
        encrypt: bool = False,
    ) -> None:
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        self._folder = folder
        self._samples = samples
        self._form = form
        self._encrypt = encrypt
        self._heads = dict(heads or {})
        self._pending: dict[str, Tensor] = {}
        self._pending_samples: list[int] = []
        self._layers: dict[int, dict[str, Any]] = {}
        self._shards: list[dict[str, Any]] = []
        self._forms: dict[int, dict[str, StoredForm]] = {}
        self._about: dict[str, Any] = {
            "version": VERSION,
            "task": task,
            "tokenizer": tokenizer_fingerprint,
            "model": model_fingerprint,
            "heads": {str(layer): chosen.tolist() for layer, chosen in self._heads.items()},
            "facts": dict(facts or {}),
        }

    def add(
        self,
        index: int,
        *,
        attention: Mapping[int, QueryKeyRows] | None = None,
        positions: Tensor | None = None,
        logits: TopLogits | None = None,
    ) -> None:
        """Adds what the teacher says of sample `index`, after those before it in this process's stretch.

        `positions` are the queries of `attention`, None = all.
        """
        self._pending_samples.append(index)
        forms: dict[str, StoredForm] = {}
        if positions is not None:
            self._pending[f"{index}/positions"] = positions.to(torch.int32).cpu()
        for layer, teacher in (attention or {}).items():
            form = automatic_form(teacher) if self._form == "auto" else self._form
            forms[str(layer)] = form
            for name, tensor in encode(teacher, form).items():
                self._pending[f"{index}/{layer}/{name}"] = tensor.cpu().contiguous()
            self._layers[layer] = {"size": teacher.query.shape[-1], "geometry": asdict(teacher.geometry)}
        if logits is not None:
            self._pending[f"{index}/logit_ids"] = logits.ids.cpu()
            self._pending[f"{index}/logit_log_probs"] = logits.log_probs.cpu()
        self._forms[index] = forms
        if sum(tensor.nbytes for tensor in self._pending.values()) >= _SHARD_BYTES:
            self._flush()

    @torch.no_grad()
    def ask(
        self, model: nn.Module, stored: Callable[[Tensor], TopLogits], *, shift: bool = True,
        queries: Sequence[Tensor | None] = (), advance: Callable[[int], object] = bool,
    ) -> None:  # fmt: skip
        """Adds what a teacher says of every sample: logits, and the attention of the chosen heads if there are any.

        All processes call it, and close the writer then.

        Args:
            stored: makes of a sample's logits [answer tokens, vocabulary] what is kept.
            shift: whether logits are those that predict the answer tokens, or those at them.
            queries: of each sample those whose attention is kept, None = all.
        """
        model.eval()
        device = next(model.parameters()).device
        for (place,), counts in in_step(len(self._samples)):
            batch = {name: tensor.to(device) for name, tensor in collate([self._samples[place]], 0).items()}
            asked = answer_positions(batch["labels"], shift=shift)
            with Tap(model, self._heads) if self._heads else nullcontext() as tap:
                logits = logits_at(model, model_inputs(batch), *asked)
            if not counts:
                continue
            positions, span = queries[place] if self._heads else None, (0, batch["labels"].shape[1])
            attention = {
                layer: QueryKeyRows.of_call(call, 0, span, self._heads[layer], positions)
                for layer, call in (tap.calls if tap else {}).items()
            }
            self.add(place, attention=attention, positions=positions, logits=stored(logits))
            advance(1)

    def close(self) -> None:
        """Writes what is pending, the samples, and the index that makes the folder a memory. All processes call it."""
        self._flush()
        for forms, layers, shards in gathered((self._forms, self._layers, self._shards)):
            self._forms = self._forms | forms
            self._layers = self._layers | layers
            self._about.setdefault("shards", []).extend(shards)
        self._about |= {
            "samples": len(self._samples),
            "answer_tokens": [answer_tokens(sample) for sample in self._samples],
            "layers": {str(layer): known for layer, known in sorted(self._layers.items())},
            "forms": [self._forms.get(index, {}) for index in range(len(self._samples))],
        }
        if is_main():
            rows = [(sample.input_ids, sample.labels) for sample in self._samples]
            self._about["samples_sha256"] = write_samples(self._folder, rows, encrypt=self._encrypt)
        self.note()
        wait_for_all()

    def note(self, **facts: Any) -> None:
        """Keeps measured `facts` (such as the attention floor) with a closed memory."""
        self._about["facts"] |= facts
        if is_main():
            (self._folder / "memory.json").write_text(json.dumps(self._about, indent=1) + "\n")

    def _flush(self) -> None:
        if not self._pending:
            return
        first, end = self._pending_samples[0], self._pending_samples[-1] + 1
        self._shards.append(write_shard(self._folder, self._pending, first, end, encrypt=self._encrypt))
        self._pending, self._pending_samples = {}, []


def write_shard(folder: Path, tensors: Mapping[str, Tensor], first: int, end: int, *, encrypt: bool) -> dict[str, Any]:
    """Writes the teacher's signals of the samples `first` to `end` of a memory. Returns what its index says of them."""
    path = folder / f"teacher-{first:05d}.safetensors"
    save_tensors(tensors, path, encrypted=encrypt)
    return {"file": path.name, "samples": [first, end], "sha256": file_digest(path)}


def write_samples(folder: Path, rows: Sequence[tuple[Any, Any]], *, encrypt: bool) -> str:
    """Writes the kept rows, ids and labels of each, into the folder of a memory. Returns the hash of their file."""
    lengths = [len(ids) for ids, _ in rows]
    samples = {
        "input_ids": torch.from_numpy(_join([ids for ids, _ in rows])),
        "labels": torch.from_numpy(_join([labels for _, labels in rows])),
        "ends": torch.tensor(lengths, dtype=torch.long).cumsum(0),
    }
    save_tensors(samples, folder / "samples.safetensors", encrypted=encrypt)
    return file_digest(folder / "samples.safetensors")


def _join(rows: list[Any]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int32), *(np.asarray(row, dtype=np.int32) for row in rows)])
