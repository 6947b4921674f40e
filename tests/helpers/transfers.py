"""What comes to a device, counted where there is none but the CPU."""

from __future__ import annotations

from collections.abc import Iterable
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


class Moves(TorchFunctionMode):
    """Counts the tensors that come to another device than that on which they lay."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and any(isinstance(one, Tensor) and one.device != result.device for one in args):
            self.count += 1
        return result
