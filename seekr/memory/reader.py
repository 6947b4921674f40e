"""What is kept of a past task, on disk: its kept samples, its chosen heads, and the teacher's signals for them.

Everything is safetensors and JSON, read by memory map: only the part that a batch asks for is ever in RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from seekr.attention.rows import MapRows
from seekr.attention.stored import decode
from seekr.attention.tap import Geometry
from seekr.data.token_rows import IGNORED
from seekr.disk.files import file_digest
from seekr.disk.regular import regular
from seekr.disk.tensors import Tensors
from seekr.errors import InputError
from seekr.memory.about import check_owner, read_about
from seekr.modeling.batches import MicroBatch
from seekr.modeling.flat_tensors import FlatTensors
from seekr.modeling.losses import TopLogits


@dataclass(frozen=True, slots=True)
class KeptSample:
    """A tokenized row of a past task: `input_ids` and `labels`, int32 [tokens]."""

    input_ids: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, prompt: Sequence[int] | np.ndarray, answer: Sequence[int] | np.ndarray) -> Self:
        """A row of these token ids, the answer's labelled."""
        ids = np.concatenate([prompt, answer]).astype(np.int32)
        return cls(ids, np.where(np.arange(len(ids)) < len(prompt), IGNORED, ids).astype(np.int32))


@dataclass(frozen=True)
class SampleTeacherSignals:
    """The stored attention of one kept sample (a `StoredAttention`).

    Attributes:
        heads: layer → LongTensor of the chosen heads.
        tensors: what `Memory.tensors` gives of it, wherever that lies.
    """

    memory: Memory
    sample: int
    tensors: FlatTensors

    @property
    def heads(self) -> Mapping[int, Tensor]:
        return self.memory.heads

    @cached_property
    def positions(self) -> Tensor | None:
        """[queries] ascending, or None for every token."""
        positions = self.tensors.get("positions")
        return None if positions is None else positions.long()

    def heads_on(self, layer: int, device: torch.device) -> Tensor:
        """[heads], the chosen heads of `layer`, on `device`."""
        return self.tensors[f"{layer}/heads"].to(device)

    def rows(self, layer: int, device: torch.device) -> MapRows:
        """The stored rows of the chosen heads of `layer`, on `device`."""
        about, tensors = self.memory.about, self.tensors.part(f"{layer}/")
        positions = self.positions
        if positions is None:
            positions = torch.arange(self.memory.length(self.sample), device=device)
        facts, form = about["layers"][str(layer)], about["forms"][self.sample][str(layer)]
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return decode(moved, form, positions.to(device), Geometry(**facts["geometry"]), facts["size"])


def logits_of(tensors: Mapping[str, Tensor]) -> TopLogits:
    """The teacher's distributions at a sample's answer tokens, of what `Memory.tensors` gives of it."""
    return TopLogits(tensors["logit_ids"], tensors["logit_log_probs"])


def compared(logits: Tensor, counts: Sequence[int], batch: MicroBatch, measure: Callable[..., Tensor]) -> Tensor:
    """Σ over rows of weight · Σ over tokens of a `measure` of `TopLogits` between stored logits and these; Tensor[].

    `logits` [tokens, vocabulary] are those of row after row, which have `counts` each.
    """
    of_rows = zip(batch.weights, batch.signals, logits.split(counts), strict=True)
    return torch.stack([weight * measure(logits_of(signals), own).sum() for weight, signals, own in of_rows]).sum()


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
        about = read_about(folder)
        check_owner(folder, "tokenizer", about["tokenizer"], tokenizer_fingerprint)
        check_owner(folder, "model", about["model"], model_fingerprint)
        digests = {"samples.safetensors": about["samples_sha256"]}
        digests |= {shard["file"]: shard["sha256"] for shard in about["shards"]}
        for name, digest in digests.items():
            if not (folder / name).exists():
                raise InputError(
                    f"{folder / name}: missing; the memory is incomplete, restore it or learn the task again"
                )
            regular(folder / name)
            if verify and file_digest(folder / name) != digest:
                raise InputError(
                    f"{folder / name}: checksum differs; the file is damaged, restore it or learn the task again"
                )
        return cls(folder, about)

    def __reduce__(self) -> Any:
        return Memory, (self.folder, self.about)  # another process opens the files for itself

    def __len__(self) -> int:
        return int(self.about["samples"])

    def encoded(self, sample: int) -> KeptSample:
        """The tokenized row of a kept sample."""
        start, stop = self._span(sample)
        file = self._file("samples.safetensors")
        return KeptSample(*(file.get_slice(name)[start:stop].numpy() for name in ("input_ids", "labels")))

    def length(self, sample: int) -> int:
        """Tokens of a kept sample."""
        start, stop = self._span(sample)
        return stop - start

    def tensors(self, sample: int, *, logits: bool = False, attention: bool = False) -> dict[str, Tensor]:
        """What is kept of a sample's teacher, as far as it is wanted; nothing else is read.

        Of the logits `logit_ids` and `logit_log_probs`; of the attention `positions`, unless these are every token, and
        of each layer LAYER/heads and the tensors of its form, LAYER/NAME.
        """
        if not (logits or attention):
            return {}
        shard = self._shard(sample)
        names = [name for name in self._names.get(sample, ()) if (logits if name.startswith("logit_") else attention)]
        heads = {f"{layer}/heads": chosen for layer, chosen in self.heads.items()} if attention else {}
        return {name: shard.get_tensor(f"{sample}/{name}") for name in names} | heads

    def attention(self, sample: int, tensors: FlatTensors | None = None) -> SampleTeacherSignals:
        """The stored attention of a kept sample, to be given as a teacher; read now, unless a batch has its tensors."""
        read = FlatTensors.of(self.tensors(sample, attention=True)) if tensors is None else tensors
        return SampleTeacherSignals(self, sample, read)

    def logits(self, sample: int) -> TopLogits:
        """The teacher's distributions at the sample's answer tokens."""
        return logits_of(self.tensors(sample, logits=True))

    def summary(self) -> dict[str, Any]:
        """What the memory keeps, in numbers: task, samples, tokens, heads, layers, queries, forms, bytes, facts."""
        forms = sorted({form for sample in self.about["forms"] for form in sample.values()})
        with_positions = [sample for sample, names in self._names.items() if "positions" in names]
        budgets = [len(self._shard(sample).get_tensor(f"{sample}/positions")) for sample in with_positions]
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
    def _names(self) -> dict[int, list[str]]:
        """Names of the stored tensors of each sample."""
        names: dict[int, list[str]] = {}
        for shard in self.about["shards"]:
            for key in self._file(shard["file"]).keys():  # noqa: SIM118 - not a dict
                sample, _, name = key.partition("/")
                names.setdefault(int(sample), []).append(name)
        return names

    @property
    def encrypted(self) -> bool:
        """Whether its rows and signals are encrypted."""
        return bool(self._file("samples.safetensors").encrypted)

    def _file(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = Tensors(self.folder / name)
            except (OSError, SafetensorError) as error:
                raise InputError(
                    f"{self.folder / name}: cannot be read ({error}); restore it or learn the task again"
                ) from None
        return self._files[name]
