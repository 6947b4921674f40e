"""What is kept of a past task, on disk: its kept samples, its chosen heads, and the teacher's signals for them.

Everything is safetensors and JSON, read by memory map: only the part that a batch asks for is ever in RAM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from seekr.attention.rows import MapRows
from seekr.attention.stored import decode
from seekr.attention.tap import Geometry
from seekr.errors import InputError
from seekr.modeling.fingerprints import hash_file
from seekr.modeling.losses import TopLogits

VERSION = 2


@dataclass(frozen=True, slots=True)
class KeptSample:
    """A tokenized row of a past task: `input_ids` and `labels`, int32 [tokens]."""

    input_ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class SampleTeacherSignals:
    """The stored attention of one kept sample (a `StoredAttention`).

    Attributes:
        heads: layer → LongTensor of the chosen heads.
        positions: [queries] ascending, or None for every token.
    """

    memory: Memory
    sample: int

    @property
    def heads(self) -> Mapping[int, Tensor]:
        return self.memory.heads

    @property
    def positions(self) -> Tensor | None:
        return self.memory.positions(self.sample)

    def rows(self, layer: int, device: torch.device) -> MapRows:
        """The stored rows of the chosen heads of `layer`, on `device`."""
        return self.memory.rows(self.sample, layer, device)


@dataclass
class Memory:
    """A past task as it is kept on disk. Open it with `Memory.open`.

    Attributes:
        folder: where it lies.
        about: what `memory.json` says.
        heads: layer → LongTensor of the chosen heads.
    """

    folder: Path
    about: dict[str, Any]
    heads: dict[int, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.heads = {int(layer): torch.tensor(chosen) for layer, chosen in self.about["heads"].items()}
        self._files: dict[str, Any] = {}
        self._positions: dict[int, Tensor | None] = {}
        samples = self._file("samples.safetensors")
        self._ends: list[int] = samples.get_tensor("ends").tolist()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        tokenizer_fingerprint: str | None = None,
        model_fingerprint: str | None = None,
        verify: bool = True,
    ) -> Memory:
        """Opens a memory folder.

        Args:
            folder: a stage's `memory` folder.
            tokenizer_fingerprint, model_fingerprint: what it must belong to; None = not checked.
            verify: whether the files are compared with their checksums, which reads them once.

        Raises:
            InputError: for a memory that is missing, damaged, or belongs to another tokenizer or model.
        """
        about = _read_about(folder)
        _check_owner(folder, "tokenizer", about["tokenizer"], tokenizer_fingerprint)
        _check_owner(folder, "model", about["model"], model_fingerprint)
        digests = {"samples.safetensors": about["samples_sha256"]}
        digests |= {shard["file"]: shard["sha256"] for shard in about["shards"]}
        for name, digest in digests.items():
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder / name}: missing; the memory is incomplete, restore it or learn the task again"
                )
            if verify and hash_file(folder / name) != digest:
                raise InputError(
                    f"{folder / name}: checksum differs; the file is damaged, restore it or learn the task again"
                )
        return cls(folder, about)

    def __len__(self) -> int:
        return int(self.about["samples"])

    def encoded(self, sample: int) -> KeptSample:
        """The tokenized row of a kept sample."""
        start, stop = self._span(sample)
        file = self._file("samples.safetensors")
        return KeptSample(*(file.get_slice(name)[start:stop].numpy() for name in ("input_ids", "labels")))

    def attention(self, sample: int) -> SampleTeacherSignals:
        """The stored attention of a kept sample, to be given as a teacher."""
        return SampleTeacherSignals(self, sample)

    def positions(self, sample: int) -> Tensor | None:
        """[queries] that the attention of a sample is kept for, ascending; None = every token."""
        if sample not in self._positions:  # every layer of a sample asks for them
            key = f"{sample}/positions"
            shard = self._shard(sample)
            self._positions[sample] = shard.get_tensor(key).long() if key in self._keys.get(sample, ()) else None
        return self._positions[sample]

    def rows(self, sample: int, layer: int, device: torch.device) -> MapRows:
        """The stored rows of the chosen heads of a layer."""
        prefix = f"{sample}/{layer}/"
        shard = self._shard(sample)
        tensors = {
            key.removeprefix(prefix): shard.get_tensor(key).to(device)
            for key in self._keys.get(sample, ())
            if key.startswith(prefix)
        }
        positions = self.positions(sample)
        if positions is None:
            start, stop = self._span(sample)
            positions = torch.arange(stop - start)
        layer_facts = self.about["layers"][str(layer)]
        form = self.about["forms"][sample][str(layer)]
        return decode(tensors, form, positions.to(device), Geometry(**layer_facts["geometry"]), layer_facts["size"])

    def logits(self, sample: int) -> TopLogits:
        """The teacher's distributions at the sample's answer tokens."""
        shard = self._shard(sample)
        return TopLogits(*(shard.get_tensor(f"{sample}/{name}") for name in ("logit_ids", "logit_log_probs")))

    def read_ahead(self, sample: int) -> None:
        """Asks the system to read a sample's teacher signals from disk while something else is computed.

        Returns at once; nothing is read twice, and nothing at all where the system cannot be asked.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for name, spans in self._spans_on_disk.get(sample, {}).items():
            with (self.folder / name).open("rb") as file:
                for start, stop in spans:
                    os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)

    def summary(self) -> dict[str, Any]:
        """What the memory keeps, in numbers: task, samples, tokens, heads, layers, queries, forms, bytes, facts."""
        forms = sorted({form for sample in self.about["forms"] for form in sample.values()})
        kept = [self.positions(sample) for sample in range(len(self))] if self.heads else []
        budgets = [len(positions) for positions in kept if positions is not None]
        return {
            "task": self.about["task"],
            "samples": len(self),
            "tokens": self._ends[-1] if self._ends else 0,
            "answer_tokens": sum(self.about["answer_tokens"]),
            "heads": sum(len(chosen) for chosen in self.heads.values()),
            "layers": len(self.heads),
            "queries": max(budgets, default=None),
            "forms": forms,
            "bytes": sum(path.stat().st_size for path in self.folder.iterdir()),
            **self.about["facts"],
        }

    def _span(self, sample: int) -> tuple[int, int]:
        """Where the sample's tokens stand among those of all samples."""
        return self._ends[sample - 1] if sample else 0, self._ends[sample]

    def _shard(self, sample: int) -> Any:
        for shard in self.about["shards"]:
            if sample < shard["samples"][1]:
                return self._file(shard["file"])
        raise InputError(f"{self.folder}: sample {sample} has no teacher signals; its method keeps none")

    @cached_property
    def _keys(self) -> dict[int, list[str]]:
        """Names of the stored tensors, by sample."""
        keys: dict[int, list[str]] = {}
        for shard in self.about["shards"]:
            for key in self._file(shard["file"]).keys():  # noqa: SIM118 - not a dict
                keys.setdefault(int(key.split("/")[0]), []).append(key)
        return keys

    @cached_property
    def _spans_on_disk(self) -> dict[int, dict[str, list[tuple[int, int]]]]:
        """Sample → file → where in it the sample's tensors lie, in bytes."""
        found: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for shard in self.about["shards"]:
            with (self.folder / shard["file"]).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            for key, tensor in header.items():
                if key != "__metadata__":
                    start, stop = (8 + size + offset for offset in tensor["data_offsets"])
                    found.setdefault(int(key.split("/")[0]), {}).setdefault(shard["file"], []).append((start, stop))
        return found

    def _file(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = safe_open(self.folder / name, framework="pt")
        return self._files[name]


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "memory.json"
    if not path.is_file():
        raise InputError(f"{path}: not found; the folder holds no memory")
    try:
        about = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: broken JSON; restore it or learn the task again") from None
    version = about.get("version") if isinstance(about, dict) else None
    if version != VERSION:
        raise InputError(
            f"{path}: version {version!r} of the memory format, and this seekr reads {VERSION}; "
            "use the seekr that wrote it, or learn the task again"
        )
    missing = {"tokenizer", "model", "heads", "samples", "samples_sha256", "shards", "layers", "forms"} - about.keys()
    if missing:
        raise InputError(f"{path}: {', '.join(sorted(missing))} missing; restore it or learn the task again")
    return dict(about)


def _check_owner(folder: Path, kind: str, kept: str, expected: str | None) -> None:
    if expected is not None and kept != expected:
        raise InputError(
            f"{folder}: this memory belongs to another {kind} ({kept}, not {expected}); "
            f"use the {kind} that it was made with"
        )
