"""Files of tensors, encrypted or not: a safetensors file in which, where it is, each tensor is one that was sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from seekr.disk.full import written_to
from seekr.disk.regular import regular
from seekr.disk.sealed import TENSORS_MARK, decrypt, encrypt


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, encrypted: bool) -> None:
    """Writes a safetensors file; where it is `encrypted`, the names of the tensors stay readable."""
    if not encrypted:
        with written_to(path):
            save_file(dict(tensors), path)
        return
    sealed = {name: encrypt(save({"": tensor}), path, name) for name, tensor in tensors.items()}
    as_bytes = {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in sealed.items()}
    with written_to(path):
        save_file(as_bytes, path, metadata={TENSORS_MARK: "1"})


class Tensors:
    """A safetensors file, encrypted or not, of which each tensor is read when it is asked for.

    Raises InputError as `read_text` does, and SafetensorError or OSError where it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = safe_open(regular(path), framework="pt")
        self.encrypted = TENSORS_MARK in (self._file.metadata() or {})
        self._sliced: dict[str, Tensor] = {}

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def get_tensor(self, name: str) -> Tensor:
        stored: Tensor = self._file.get_tensor(name)
        return load(decrypt(stored.numpy().tobytes(), self.path, name))[""] if self.encrypted else stored

    def get_slice(self, name: str) -> Any:
        """What `[start:stop]` reads a part of; one that is encrypted is decrypted once, as a whole."""
        if not self.encrypted:
            return self._file.get_slice(name)
        if name not in self._sliced:
            self._sliced[name] = self.get_tensor(name)
        return self._sliced[name]
