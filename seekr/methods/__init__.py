"""The methods of continual learning, one file each, and how a configuration names them: by name, or one of a user's own
as package.module.Class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from seekr.errors import InputError, imported, know, nearest
from seekr.methods.agem import AGem as AGem
from seekr.methods.averaging import Averaging as Averaging
from seekr.methods.base import Method as Method
from seekr.methods.base import Objective as Objective
from seekr.methods.base import TaskContext as TaskContext
from seekr.methods.derpp import Derpp as Derpp
from seekr.methods.ewc import Ewc as Ewc
from seekr.methods.general_replay import GeneralReplay as GeneralReplay
from seekr.methods.hft import Hft as Hft
from seekr.methods.joint import Joint as Joint
from seekr.methods.kl_anchor import KlAnchor as KlAnchor
from seekr.methods.l2p import L2p as L2p
from seekr.methods.lfpt5 import Lfpt5 as Lfpt5
from seekr.methods.lwf import Lwf as Lwf
from seekr.methods.olora import Olora as Olora
from seekr.methods.on_policy_replay import OnPolicyReplay as OnPolicyReplay
from seekr.methods.osf import Osf as Osf
from seekr.methods.progressive_prompts import ProgressivePrompts as ProgressivePrompts
from seekr.methods.replay import Replay as Replay
from seekr.methods.seekr import Seekr as Seekr
from seekr.methods.sequential import Sequential as Sequential
from seekr.other_names import meant


def _methods_of_this_folder() -> dict[str, type[Method]]:
    """Every method that a file here defines, by name: whoever adds a file adds a method."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    kinds: list[type[Method]] = [Method]
    for kind in kinds:  # grows while it is gone through
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
    return {kind.name: kind for kind in kinds if "name" in vars(kind) and kind.__module__.startswith(f"{__name__}.")}


METHODS: dict[str, type[Method]] = _methods_of_this_folder()


def find_method(name: Any) -> type[Method]:
    """The method of a name, or the subclass of `Method` that `package.module.Class` imports. Raises InputError."""
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if not isinstance(name, str) or "." not in name:
        raise InputError(f"method.name: {name!r} is no method; {nearest(str(name), METHODS)}")
    module, _, kind = name.rpartition(".")
    form = "package.module.Class, of a package that is installed or on PYTHONPATH"
    found = imported(module, kind, what=f"method.name: {name!r}", form=form)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"method.name: {name!r} is no subclass of seekr.methods.Method; see docs/extending.md")
    return found


def make_method(settings: str | Mapping[str, Any] | Method) -> Method:
    """The method that a configuration asks for: its name, or its name and settings.

    Raises:
        InputError: for an unknown name or key (the nearest valid one is named) or a value out of range.
    """
    if isinstance(settings, Method):
        know(settings.full_name)
        return settings
    if isinstance(settings, str):
        settings = {"name": settings}
    if not isinstance(settings, Mapping):
        raise InputError(f"method: {settings!r} is neither a name nor a mapping; write {{name: seekr, ...}}")
    options = dict(settings)
    name = options.pop("name", "seekr")
    kind = find_method(name)
    valid = [setting.name for setting in fields(kind)]
    for key in options:
        if key not in valid:
            raise InputError(f"method.{key}: {name} has no such setting; {meant(str(key), valid, 'method')}")
    return kind(**options)
