"""A run's folder is data: code that it names, and seekr has not, is run where its reader says so and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from seekr.config.schema import Config
from seekr.errors import InputError, is_known
from seekr.nested import flatten

TRUST = "SEEKR_TRUST"


def check_code(config: Config, where: object) -> None:
    """Of the configuration that a run has kept, `where` being its file: raises InputError where it names code of
    others that neither this process has imported by a name of its user's, nor the variable SEEKR_TRUST names.
    """
    trusted = {name.strip() for name in os.environ.get(TRUST, "").split(",")}
    for key, module, name in _named(config):
        parents = {module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1)}
        if not parents & trusted and not is_known(f"{module}.{name}"):
            raise InputError(
                f"{where}: {key} names code that is not seekr's, and a run's folder is read as data; where you trust "
                f"what is installed here as {module}, set {TRUST}={module} in the environment"
            )


def _named(config: Config) -> Iterator[tuple[str, str, str]]:
    """Keys, and the modules and names there that they mean."""
    method = str(config.method.get("name", ""))
    if "." in method:
        module, _, name = method.rpartition(".")
        yield "method.name", module, name
    for place, task in enumerate(config.tasks):
        module, colon, name = str(task.get("metric", "")).partition(":")
        if colon:
            yield f"tasks.{place}.metric", module, name
    for key, value in flatten(config.vllm or {}).items():  # an engine takes classes, plugins and files by many keys
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if not all(re.fullmatch(r"[\w-]*", text) for text in texts):
            yield f"vllm.{key}", "vllm", ""
