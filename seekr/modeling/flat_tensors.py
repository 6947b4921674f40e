"""Tensors of any dtype and shape in one buffer, so that all of them are pinned, and moved to a device, at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes, as torch's own tensors on a CPU have it


class FlatTensors(Mapping[str, Tensor]):
    """Name → a view of `buffer`, wherever that lies.

    Args:
        buffer: uint8 [bytes].
        index: name → first byte, dtype and shape.
    """

    def __init__(self, buffer: Tensor, index: Mapping[str, tuple[int, torch.dtype, torch.Size]]) -> None:
        self.buffer = buffer
        self._index = index

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FlatTensors:
        """A copy of tensors on the CPU."""
        index, size = {}, 0
        for name, tensor in tensors.items():
            index[name] = size, tensor.dtype, tensor.shape
            size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        flat = cls(torch.empty(size, dtype=torch.uint8), index)
        for name, tensor in tensors.items():
            flat[name].copy_(tensor)
        return flat

    def __getitem__(self, name: str) -> Tensor:
        start, dtype, shape = self._index[name]
        return self.buffer[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def part(self, prefix: str) -> FlatTensors:
        """Those whose names begin with `prefix`, by the rest of their names; the same buffer."""
        index = {name.removeprefix(prefix): at for name, at in self._index.items() if name.startswith(prefix)}
        return FlatTensors(self.buffer, index)

    def to(self, device: torch.device | str) -> FlatTensors:
        """The same tensors on `device`: one copy, which the host waits for only where its memory is not pinned."""
        return FlatTensors(self.buffer.to(device, non_blocking=True), self._index)

    def pin_memory(self) -> FlatTensors:
        """The same tensors in page-locked memory."""
        return FlatTensors(self.buffer.pin_memory(), self._index)
