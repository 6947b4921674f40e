"""Counting the bytes that are alive while a model is used whose tensors have a shape and no numbers."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seekr.planning.blank import PUTS, Blank, blank, storage_of

WEIGHTS = "weights"
CASTS = "weights in half precision"
GRADIENTS = "gradients"
ACTIVATIONS = "activations"
MAPS = "attention maps and masks"
LOGITS = "logits"
TEACHER = "teacher"

Bytes = dict[str, int]
"""Part → bytes."""

_aten = torch.ops.aten
_LARGE = 1 << 26  # entries of a tensor that is not worth its numbers


class Live(TorchDispatchMode):
    """Sees every tensor that is made inside a `with` block, and when its storage goes.

    Integers and flags (token ids, labels, positions, masks, and what is computed of them alone) have their numbers, so
    that a choice of tokens is the run's own; all others are blank, and one that is asked for its number says 1.

    Args:
        vocabulary: entries whose last dimension is this long are logits.
        length, heads: of a forward; entries of [.., length, length] a head are maps.

    Attributes:
        peak: part → bytes alive at the moment at which they were most together.
    """

    def __init__(self, *, vocabulary: int, length: int, heads: int) -> None:
        super().__init__()
        self.peak: Bytes = {}
        self._now: Counter[str] = Counter()
        self._total = self._highest = 0
        self._known: dict[int, tuple[str, int]] = {}  # storage → part, bytes
        self._part: str | None = None
        self._vocabulary, self._length, self._heads = vocabulary, length, heads

    def know(self, tensors: Iterable[Tensor | None], part: str) -> None:
        """Counts tensors that were made before the block, or gives those of it another part."""
        for tensor in tensors:
            if tensor is not None:
                self._count(tensor, part)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made inside belongs to the part `name`."""
        outer, self._part = self._part, name
        try:
            yield
        finally:
            self._part = outer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default and isinstance(args[0], Blank):
            return 1.0 if args[0].is_floating_point() else 1
        result = self._result(func, args, kwargs)
        cast = func is _aten._to_copy.default and isinstance(args[0], Parameter)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and storage_of(leaf)._cdata not in self._known:
                self._count(leaf, CASTS if cast else self._part or self._part_of(leaf))
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        if _has_numbers(func, args, kwargs):
            return func(*args, **kwargs)
        if func is _aten.index.Tensor or func in PUTS:
            args = (args[0], _places(args[1]), *args[2:])
            # Autograd puts gradients into fresh zeros in place, and makes a copy for tensors like ours alone.
            func = PUTS[0] if func in PUTS else func
        return blank(func, args, kwargs)

    def _part_of(self, tensor: Tensor) -> str:
        shape = tensor.shape
        if len(shape) > 1 and shape[-1] == self._vocabulary:
            return LOGITS
        square = len(shape) > 2 and shape[-1] == shape[-2] == self._length
        return MAPS if square and (len(shape) == 4 or shape[0] % self._heads == 0) else ACTIVATIONS

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = storage_of(tensor)
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            self._now[self._known[key][0]] -= size
        else:
            weakref.finalize(storage, self._forget, key).atexit = False
            self._total += size
        self._known[key] = part, size
        self._now[part] += size
        if self._total > self._highest:
            self._highest = self._total
            self.peak = {name: count for name, count in self._now.items() if count}

    def _forget(self, key: int) -> None:
        part, size = self._known.pop(key)
        self._now[part] -= size
        self._total -= size


def _has_numbers(func: Any, args: Any, kwargs: Any) -> bool:
    dtype = kwargs.get("dtype")
    if dtype is not None and dtype.is_floating_point:
        return False
    each = (one for arg in (*args, *kwargs.values()) for one in (arg if isinstance(arg, list | tuple) else (arg,)))
    tensors = [one for one in each if isinstance(one, Tensor)]
    if tensors:
        return not any(isinstance(t, Blank) or t.is_floating_point() or t.numel() > _LARGE for t in tensors)
    if dtype is None:  # what is made of numbers alone is of their kind
        return func.overloadpacket in (_aten.arange, _aten.full) and not any(isinstance(arg, float) for arg in args)
    return not isinstance(args[0], list | tuple) or prod(args[0]) <= _LARGE


def _places(indices: Any) -> list[Tensor | None]:
    """Indices, each mask among them as the places that it chooses."""
    found: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype in (torch.bool, torch.uint8) and not isinstance(index, Blank)
        found += index.nonzero(as_tuple=True) if mask else (index,)
    return found
