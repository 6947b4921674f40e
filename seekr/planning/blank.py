"""Tensors that have a shape and no numbers.

`torch._subclasses.FakeTensor` is one for every device; this one, of the CPU alone, takes a third of its time.
"""

from __future__ import annotations

from collections.abc import ValuesView
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

PUTS = (torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default)


_CPU = torch.device("cpu")


class Blank(Tensor):
    """A tensor of the CPU without numbers: `on_meta`, which lies on torch's device "meta", is computed with."""

    on_meta: Tensor

    @staticmethod
    def __new__(cls, on_meta: Tensor) -> Blank:
        made: Any = Tensor._make_wrapper_subclass(
            cls, on_meta.shape, on_meta.stride(), on_meta.storage_offset(), dtype=on_meta.dtype, device=_CPU
        )
        made.on_meta = on_meta
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return blank(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Blank({list(self.shape)}, {self.dtype})"


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """The storage whose bytes a tensor is counted by; views share one."""
    return (tensor.on_meta if isinstance(tensor, Blank) else tensor).untyped_storage()


def blank(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives. Where it gave new tensors before for arguments of these shapes it is not asked again."""
    key = func, torch.get_default_dtype(), _key(args), tuple(kwargs), _key(kwargs.values())
    if key not in _GIVEN:
        result, given = _asked(func, args, kwargs)
        if given:
            _GIVEN[key] = type(result), given
        return result
    kind, given = _GIVEN[key]
    made = [Blank(torch.empty_strided(size, stride, dtype=dtype, device="meta")) for size, stride, dtype in given]
    return made[0] if issubclass(kind, Tensor) else kind(made)


_GIVEN: dict[Any, tuple[Any, list[Any]]] = {}


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple | ValuesView):
        return tuple(map(_key, value))
    return type(value), value


def _asked(func: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """What an operator gives, and shape, stride and dtype of each tensor if these are all new ones."""
    outer: dict[int, Blank] = {}

    def inner(leaf: Any) -> Any:
        if not isinstance(leaf, Blank):
            return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf
        outer[id(leaf.on_meta)] = leaf
        return leaf.on_meta

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return outer[id(leaf)] if id(leaf) in outer else Blank(leaf)

    args, kwargs = tree_map(inner, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = kwargs | {"device": "meta"}
    given = _grouped(*args, **kwargs) if func is _GROUPED else func(*args, **kwargs)
    result, leaves = tree_map(wrapped, given), tree_leaves(given)
    old = {storage_of(one)._cdata for one in outer.values()}
    if func in PUTS or not all(isinstance(one, Tensor) and one.untyped_storage()._cdata not in old for one in leaves):
        return result, []
    return result, [(one.shape, one.stride(), one.dtype) for one in leaves]


_GROUPED = torch.ops.aten._grouped_mm.default


def _grouped(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Products of groups of rows, as experts take them: unlike kernels, what tells their shape takes bfloat16 alone."""
    product: Tensor = _GROUPED(a.bfloat16(), b.bfloat16(), *args, **kwargs)
    return product.to(a.dtype)
