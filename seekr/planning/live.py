"""Counting the bytes that are alive while a step is taken by tensors that hold no numbers."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WEIGHTS = "weights"
CASTS = "weights in half precision"
GRADIENTS = "gradients"
ACTIVATIONS = "activations"
MAPS = "attention maps and masks"
LOGITS = "logits"
TEACHER = "teacher"
DISTILLATION = "attention distillation"

_aten = torch.ops.aten


class Live(TorchDispatchMode):
    """Sees every tensor that is made inside a `with` block, and when its storage goes.

    To be opened inside a FakeTensorMode. What depends on numbers is answered by the shape of the step: a choice of
    answer tokens has `answers` of them in each row, a number that is asked for is 1.

    Args:
        vocabulary: entries whose last dimension is this long are logits.
        rows, length, heads: of the micro-batch and its maps; entries of [.., length, length] a head are maps.
        answers: answer tokens of a row.

    Attributes:
        now: part → bytes alive.
        peaks: window → the same at its moment at which they were most together.
    """

    def __init__(self, *, vocabulary: int, rows: int, length: int, heads: int, answers: int) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peaks: dict[str, dict[str, int]] = {}
        self._window = ""
        self._highest: Counter[str] = Counter()
        self._total = 0
        self._known: dict[int, tuple[str, int]] = {}  # storage → part, bytes
        self._part: str | None = None
        self._vocabulary, self._answers = vocabulary, answers
        self._rows, self._length, self._heads = rows, length, heads

    def know(self, tensors: Iterable[Tensor], part: str) -> None:
        """Counts tensors that were made before the block, or gives those of it another part."""
        for tensor in tensors:
            self._count(tensor, part)

    def window(self, name: str) -> None:
        """From now on peaks are those of the window `name`, which may be opened more than once."""
        self._window = name
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
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for more often than anything else
        if func is _aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is _aten.nonzero.default:
            result = args[0].new_empty((self._chosen(args[0]), args[0].dim()), dtype=torch.long)
        elif func is _aten._unique2.default:  # positions of answers, where a model takes no mask of places
            result = args[0].new_empty(self._answers), torch.empty_like(args[0]), args[0].new_empty(0)
        else:
            if func in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
                args = (args[0], self._places(args[1]), *args[2:])
                # Autograd puts gradients into fresh zeros in place, and makes a copy for tensors like ours alone.
                func = _aten.index_put_.default if func is _aten.index_put.default else func
            result = func(*args, **kwargs)
        cast = func is _aten._to_copy.default and isinstance(args[0], Parameter)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._known:
                self._count(leaf, CASTS if cast else self._part or self._part_of(leaf))
        return result

    def _chosen(self, mask: Tensor) -> int:
        """True entries of a mask of tokens: [rows, tokens], or the tokens of one row among those of all."""
        return self._answers * (mask.shape[0] if mask.dim() > 1 else 1)

    def _places(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """A mask among indices in numbers: as many as `_chosen` says."""
        places: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(index)
            else:
                places += [index.new_empty(self._chosen(index), dtype=torch.long) for _ in range(index.dim())]
        return places

    def _part_of(self, tensor: Tensor) -> str:
        shape = tensor.shape
        if len(shape) > 1 and shape[-1] == self._vocabulary:
            return LOGITS
        square = len(shape) > 2 and shape[-1] == shape[-2] == self._length
        if square and (len(shape) == 4 or shape[0] == self._rows * self._heads):
            return MAPS
        return ACTIVATIONS

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            old, _ = self._known[key]
            self.now[old] -= size
        else:
            weakref.finalize(storage, self._forget, key).atexit = False
            self._total += size
        self._known[key] = part, size
        self.now[part] += size
        self._look()

    def _look(self) -> None:
        if self._total > self._highest[self._window]:
            self._highest[self._window] = self._total
            self.peaks[self._window] = {name: count for name, count in self.now.items() if count}

    def _forget(self, key: int) -> None:
        part, size = self._known.pop(key)
        self.now[part] -= size
        self._total -= size
