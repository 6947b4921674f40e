"""What comes to a device, counted where there is none but the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Crossings(TorchDispatchMode):
    """A stand-in for a device: names each operation that would bring a tensor of the host to it.

    On the host are the tensors `host`, those made of Python's numbers, and what is made of such alone; on the device
    all others.
    """

    def __init__(self, host: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._host = {tensor.untyped_storage()._cdata: tensor for tensor in host}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        of_host = [tensor.untyped_storage()._cdata in self._host for tensor in given]
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default or (given and all(of_host)):
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self._host |= {tensor.untyped_storage()._cdata: tensor for tensor in made}
        elif any(of_host):
            self.found.append(str(func))
        return result


class Waits(TorchDispatchMode):
    """Names the module of each operation whose result has a size, or is a number, that a device would be waited for.

    The module is the nearest one that is not torch's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        waits = func in (aten.nonzero.default, aten.masked_select.default, aten._local_scalar_dense.default)
        masks = func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if waits or masks:
            self.found.append(next(name for name in _callers() if not name.startswith(("torch.", __name__))))
        return func(*args, **(kwargs or {}))


def _callers() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        yield frame.f_globals["__name__"]
        frame = frame.f_back


class Moves(TorchFunctionMode):
    """Counts the tensors that come to another device than that on which they lay."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and any(isinstance(one, Tensor) and one.device != result.device for one in args):
            self.count += 1
        return result
