"""Counting the bytes that are alive while a model is used whose tensors have a shape and no numbers."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, ValuesView
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

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
_PUTS = (_aten.index_put_.default, _aten.index_put.default)
_FACTORIES = {
    getattr(_aten, name).default
    for name in ("empty", "zeros", "ones", "full", "arange", "rand", "randn", "scalar_tensor", "eye")
    if hasattr(getattr(_aten, name), "default")
} | {_aten.empty.memory_format, _aten.arange.start, _aten.arange.start_step, _aten.empty_strided.default}
_LARGE = 1 << 26  # entries of a tensor that is not worth its numbers


class Blank(Tensor):
    """A tensor of the CPU that has a shape and no numbers: what is computed of it is computed on torch's device "meta",
    which is `inner`'s. `torch._subclasses.FakeTensor` does the same for all devices and takes five times as long."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> Blank:
        blank: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="cpu",
            requires_grad=requires_grad,
        )  # fmt: skip
        blank.inner = inner
        return blank

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return blank(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Blank({list(self.shape)}, {self.dtype})"


def blank(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives: tensors without numbers. What it has made once it makes again without being asked."""
    key = func, _key(args), tuple(kwargs), _key(kwargs.values())
    if key not in _MADE:
        result, made = _on_meta(func, args, kwargs)
        if not made:
            return result
        _MADE[key] = made, type(result)
        return result
    made, kind = _MADE[key]
    found = [Blank(torch.empty_strided(size, stride, dtype=dtype, device="meta")) for size, stride, dtype in made]
    return found[0] if issubclass(kind, Tensor) else kind(found)


_MADE: dict[Any, tuple[list[Any], Any]] = {}


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple | ValuesView):
        return tuple(map(_key, value))
    return type(value), value


def _on_meta(func: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """What an operator gives, and shape, stride and dtype of each tensor if all that it gives are new tensors."""
    outer: dict[int, Blank] = {}

    def inner(leaf: Any) -> Any:
        if not isinstance(leaf, Blank):
            return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf
        outer[id(leaf.inner)] = leaf
        return leaf.inner

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return outer[id(leaf)] if id(leaf) in outer else Blank(leaf)

    args, kwargs = tree_map(inner, (args, kwargs))
    if "device" in kwargs or func in _FACTORIES:
        kwargs = kwargs | {"device": "meta"}
    given = func(*args, **kwargs)
    result, leaves = tree_map(wrapped, given), tree_leaves(given)
    old = {one.inner.untyped_storage()._cdata for one in outer.values()}
    if func in _PUTS or not all(isinstance(one, Tensor) and one.untyped_storage()._cdata not in old for one in leaves):
        return result, []
    return result, [(one.shape, one.stride(), one.dtype) for one in leaves]


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

    def restart(self) -> None:
        """From now on another peak is looked for."""
        self._highest = 0
        self._look()

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
            if isinstance(leaf, Tensor) and _storage(leaf)._cdata not in self._known:
                self._count(leaf, CASTS if cast else self._part or self._part_of(leaf))
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        if _has_numbers(func, args, kwargs):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func is _aten.index.Tensor or func in _PUTS:
            args = (args[0], _places(args[1]), *args[2:])
            # Autograd puts gradients into fresh zeros in place, and makes a copy for tensors like ours alone.
            func = _PUTS[0] if func in _PUTS else func
        return blank(func, args, kwargs)

    def _part_of(self, tensor: Tensor) -> str:
        shape = tensor.shape
        if len(shape) > 1 and shape[-1] == self._vocabulary:
            return LOGITS
        square = len(shape) > 2 and shape[-1] == shape[-2] == self._length
        return MAPS if square and (len(shape) == 4 or shape[0] % self._heads == 0) else ACTIVATIONS

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = _storage(tensor)
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            self._now[self._known[key][0]] -= size
        else:
            weakref.finalize(storage, self._forget, key).atexit = False
            self._total += size
        self._known[key] = part, size
        self._now[part] += size
        self._look()

    def _look(self) -> None:
        if self._total > self._highest:
            self._highest = self._total
            self.peak = {name: count for name, count in self._now.items() if count}

    def _forget(self, key: int) -> None:
        part, size = self._known.pop(key)
        self._now[part] -= size
        self._total -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return (tensor.inner if isinstance(tensor, Blank) else tensor).untyped_storage()


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
        with _disable_current_modes():
            found += index.nonzero(as_tuple=True) if mask else (index,)
    return found
