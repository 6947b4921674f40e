"""What a run has to know of its base model, read once a process however many seeds and candidates ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekr.attention.support import check_attention
from seekr.modeling import loading
from seekr.modeling.fingerprints import fingerprint_model

_KNOWN: dict[Any, BaseModel] = {}


@dataclass
class BaseModel:
    """A base model in the dtype of a run. Its weights are read when something of them is asked for the first time."""

    name: str
    dtype: str
    fingerprint: str | None = None
    exact_up_to: set[int | None] = field(default_factory=set)
    """The `max_length`s for which its attention was tried and can be read."""
    attention: list[int] = field(default_factory=list)
    """The layers whose attention can be read, once that was tried."""

    def skeleton(self) -> Any:
        """The model without weights. Raises InputError where they are missing, of another shape, or have no place."""
        return loading.load_skeleton(self.name, dtype=self.dtype)

    def read(self, *, attention: bool = False, max_length: int | None = None) -> str:
        """The fingerprint of its weights; `attention` = its maps are to be read too. Raises InputError."""
        if self.fingerprint is None or (attention and max_length not in self.exact_up_to):
            model = loading.load_model(self.name, dtype=self.dtype)
            self.fingerprint = fingerprint_model(model)
            if attention:
                self.attention = check_attention(model, max_length)
                self.exact_up_to.add(max_length)
        return self.fingerprint

    def try_without_weights(self, max_length: int | None) -> str | None:
        """Tries which layers' attention can be read, on a few layers of random weights: a line where that is no answer.

        Raises InputError where it cannot be read.
        """
        if max_length in self.exact_up_to:
            return None
        try:
            model, alike = loading.few_layers(self.name, dtype=self.dtype)
        except Exception as error:  # what families raise of a configuration that was cut
            return f"whether its attention can be read is tried when the run begins ({type(error).__name__} without it)"
        read = check_attention(model, max_length)
        self.attention = [layer for layer, one in enumerate(alike) if one in read]
        return None


def base_model(name: str, dtype: str) -> BaseModel:
    """The one of this name and dtype; another one once a file in its folder has changed."""
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    stamp = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    return _KNOWN.setdefault((name, dtype, tuple(stamp)), BaseModel(name, dtype))
