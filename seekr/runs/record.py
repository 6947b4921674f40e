"""What run.json says of a run: its configuration, versions, fingerprints, and when it began."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seekr import __version__
from seekr.config.identity import as_kept_now
from seekr.data.task import IN_MEMORY, Task
from seekr.disk.files import read_json, with_own_hash, write_json
from seekr.nested import flatten
from seekr.runs.folder import finished_stages
from seekr.runs.manifest import unverified
from seekr.runs.prepare import RunSpec

_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors", "numpy")


def describe_task(task: Task) -> dict[str, Any]:
    """A task as the configuration has it; rows in memory stay out of it."""
    given = {field.name: getattr(task, field.name) for field in fields(task)}
    for split in ("train", "eval", "test"):
        if isinstance(given[split], list):
            given[split] = f"<{len(given[split])} {IN_MEMORY}"
    for key in ("train", "eval", "test", "chat_template"):
        if given[key] is not None:
            given[key] = str(given[key])
    return given


def describe_run(spec: RunSpec) -> dict[str, Any]:
    """The content of run.json; stages without a manifest stay those that this run, or the one before it, had first."""
    before = _record_before(spec)
    return {
        "config": spec.config.model_dump(mode="json") | {"method": spec.method.settings()},
        "versions": versions(spec),
        "model_fingerprint": spec.model_fingerprint,
        "tokenizer_fingerprint": spec.tokenizer_fingerprint,
        "max_length": spec.max_length,
        "seed": spec.config.seed,
        "clock": spec.clock.isoformat(),
        "from": str(spec.source) if spec.source else None,
        "identity": spec.identity,
        "changed": changed_settings(spec),
        "unverified": [] if before is None else list(before.get("unverified", unverified(spec.finished))),
        "stages": [folder.name for folder in spec.finished if folder.parents[1] == spec.run],
        "encrypted_after": encrypted_after(spec, before),
    }


def name_stages(run: Path, stages: Sequence[Path]) -> None:
    """Lets run.json say which stages stand: of new ones once they do, of those that are to go before."""
    path, names = run / "run.json", [stage.name for stage in stages]
    record = read_json(path)
    if record.get("stages") != names:
        write_json(path, with_own_hash(record | {"stages": names}))


def encrypted_after(spec: RunSpec, before: dict[str, Any] | None) -> int | None:
    """How many stages were finished when encryption began; None = it has not, or that was not written down."""
    if not spec.config.encrypt:
        return None
    if before is None:
        return 0
    done = len(spec.finished)
    since = before.get("encrypted_after") if before["config"].get("encrypt") else done
    return None if since is None else min(since, done)


def _record_before(spec: RunSpec) -> dict[str, Any] | None:
    """run.json as it stands, or else that of the run which this one goes on from; None = neither is there."""
    homes = [home / "run.json" for home in (spec.run, spec.source) if home is not None]
    return next((dict(read_json(path)) for path in homes if path.is_file()), None)


def changed_settings(spec: RunSpec) -> list[dict[str, Any]]:
    """What this run, and those that it goes on from, changed after a stage: its place, and key → [before, since]."""
    if spec.source is None:
        home = spec.run / "run.json"
        return list(read_json(home).get("changed", [])) if home.is_file() else []
    record = read_json(spec.source / "run.json")
    old, new = (flatten(side) for side in (as_kept_now(record["identity"]), spec.identity))
    keys = {key: [old.get(key), new.get(key)] for key in {**old, **new} if old.get(key) != new.get(key)}
    after = len(finished_stages(spec.source))
    return [*record.get("changed", []), *([{"after_stages": after, "settings": keys}] if keys else [])]


def versions(spec: RunSpec) -> dict[str, str]:
    """Package → version, of seekr and of all that a run's numbers depend on."""
    found = {"seekr": __version__, "python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    return found if spec.vllm_version is None else found | {"vllm": spec.vllm_version}
