"""What each stage was when it was written: its files' sizes and hashes, and what stood before it.

The manifests of a run's stages are a chain from run.json to the newest stage: each holds the hash of the one before it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from seekr.disk.files import (
    Fault,
    faults_of_files,
    file_digest,
    has_own_hash,
    list_files,
    parse_json,
    with_own_hash,
    write_json,
)
from seekr.disk.sealed import read_text
from seekr.errors import InputError
from seekr.progress import bar
from seekr.runs.folder import has_weights

MANIFEST = "manifest.json"
LOST = "missing, and run.json says that it was finished"
_VERSION = 1
_MB = 10**6
_WORTH_A_BAR = 1000 * _MB
_FOR_PEOPLE = "model/README.md"  # anybody may add to it
_OF_A_RUN = ("seed", "clock", "model_fingerprint", "tokenizer_fingerprint")
_TOGETHER = (
    ("heads.json", "importance.safetensors"),
    ("importance.safetensors", "heads.json"),
    ("log.jsonl", "model"),
)  # a stage without a list of its files that has the second has the first
_READ_BY_LOADERS = {".json", ".safetensors", ".bin", ".jinja", ".model", ".py"}


def write_manifest(folder: Path, name: str, previous: str | None) -> None:
    """Describes the stage in `folder`, which is to stand under `name`; it is the last file that is written.

    `previous`: what `link_of` gives of the stages before.
    """
    _hash_ahead([path for path in folder.rglob("*") if path.is_file()], name)
    files = {path: about for path, about in list_files(folder).items() if path != _FOR_PEOPLE}
    content = {"version": _VERSION, "stage": name, "previous": previous, "files": files}
    write_json(folder / MANIFEST, with_own_hash(content))


def rechain(stages: Sequence[Path], changed: Path, *, day: str) -> None:
    """Writes into `changed`/STAGE the manifests of stages whose memory was written again there, and of those after.

    What is listed of all other files stays as it was written, and a chain that was broken stays broken. `day`: when
    something was removed, which the manifests of these memories say.
    """
    links: dict[str, str] = {}  # hash of a manifest → of the one that takes its place
    for stage in stages:
        if not (stage / MANIFEST).is_file():
            continue
        content, new = read_manifest(stage), changed / stage.name
        before = file_digest(stage / MANIFEST)
        if (new / "memory").is_dir():
            others = {name: about for name, about in content["files"].items() if not name.startswith("memory/")}
            memory = {f"memory/{name}": about for name, about in list_files(new / "memory").items()}
            content |= {"files": others | memory, "removed": [*content.get("removed", []), day]}
        elif content["previous"] not in links:
            continue
        content["previous"] = links.get(content["previous"], content["previous"])
        write_json(new / MANIFEST, with_own_hash(content))
        links[before] = file_digest(new / MANIFEST)


def link_of(stages: Sequence[Path], record: Mapping[str, Any]) -> str | None:
    """What the manifest after `stages` says of them; None where the newest has none, as in earlier versions."""
    if not stages:
        facts = {key: record.get(key) for key in _OF_A_RUN}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = stages[-1] / MANIFEST
    return file_digest(path) if path.is_file() else None


def unverified(stages: Sequence[Path], record: Mapping[str, Any] | None = None) -> list[str]:
    """The names of those without a manifest, as earlier versions wrote them.

    `record`: run.json. Since it names them, whatever else lacks its manifest has lost it.
    """
    names = [stage.name for stage in stages if not (stage / MANIFEST).exists()]
    known = (record or {}).get("unverified")
    return names if not isinstance(known, list) else [name for name in names if name in known]


def faults(
    stages: Sequence[Path], record: Mapping[str, Any], *, hashed: bool, weights: Sequence[Path]
) -> Iterator[Fault]:
    """Each way in which the stages of a run are not as they were written, in their order.

    Args:
        record: run.json.
        hashed: whether all files are read and compared with their hashes, or small ones alone.
        weights: the stages whose model folders are read too, where `hashed`.
    """
    for place, stage in enumerate(stages):
        yield from _link_faults(stages[: place + 1], record)
        yield from file_faults(stage, hashed=hashed, weights=stage in weights)
    newest = next((stage for stage in reversed(stages) if _lists_weights(stage)), None)
    if newest is not None and not os.path.lexists(newest / "model"):
        yield Fault(newest / "model", "missing, and the newest weights are never dropped")


def chain_faults(stages: Sequence[Path], record: Mapping[str, Any]) -> Iterator[Fault]:
    """The same of their manifests alone, which says whether they are of this run: no other file is read."""
    for place in range(len(stages)):
        yield from _link_faults(stages[: place + 1], record)


def lost_stages(run: Path, record: Mapping[str, Any]) -> list[Path]:
    """The stages that run.json, the `record`, names as finished, and that are not there. More may stand than it names:
    a process may be killed between the two. Earlier versions named none.
    """
    return [folder for name in record.get("stages", []) if not (folder := run / "stages" / name).is_dir()]


def standing_faults(run: Path, record: Mapping[str, Any]) -> Iterator[Fault]:
    """The same as faults, and what stands where a run has its folders."""
    working = run / "working"
    within = [*working.glob("[0-9]*"), *working.glob("[0-9]*/checkpoint-*")]
    for path in (run / "stages", run / "predictions", working, *sorted(within)):
        if os.path.lexists(path) and not path.is_dir():
            yield Fault(path, "no folder, where a run has one; move it away")
    for stage in lost_stages(run, record):
        yield Fault(stage, LOST)


def file_faults(stage: Path, *, hashed: bool, weights: bool, only: str = "") -> Iterator[Fault]:
    """The same of the files of one stage, its manifest and those whose names begin with `only`.

    Weights that `keep_stages` dropped, all of them, are no fault.
    """
    try:
        listed = _read(stage)["files"] if (stage / MANIFEST).exists() else {}
    except ValueError as error:
        yield Fault(stage / MANIFEST, str(error))
        return
    files = {name: about for name, about in listed.items() if name.startswith(only)}
    model = {name: about for name, about in files.items() if name.startswith("model/")}
    others = {name: about for name, about in files.items() if name not in model}
    if hashed:
        _hash_ahead([stage / name for name in (files if weights else others)], stage.name)
    yield from faults_of_files(stage, others, hashed=hashed)
    for name, twin in _TOGETHER if not listed else ():
        path = stage / name
        there = path.is_file() and path.stat().st_size
        if name.startswith(only) and os.path.lexists(stage / twin) and not there:
            yield Fault(path, f"missing or empty, though {twin} is there")
    if has_weights(stage):
        yield from faults_of_files(stage, model, hashed=hashed and weights)
    elif "model/".startswith(only) and os.path.lexists(stage / "model"):
        yield Fault(stage / "model", "no folder, where weights lie")
    for path in sorted(path for part in ("model", "memory") for path in (stage / part).rglob("*")):
        name = path.relative_to(stage).as_posix()
        if path.suffix not in _READ_BY_LOADERS or not name.startswith(only):
            continue
        if files and path.is_file() and name not in listed:
            yield Fault(path, "not a file of this stage, and whoever loads it may read it; move it away")
        elif not listed and not path.is_file():
            yield Fault(path, "is no file")


def read_manifest(stage: Path) -> dict[str, Any]:
    """The manifest of a stage. Raises InputError where it is damaged, or of a version to come."""
    try:
        return _read(stage)
    except ValueError as error:
        raise InputError(f"{stage / MANIFEST}: {error}") from None


def _read(stage: Path) -> dict[str, Any]:
    """The same. Raises ValueError with what is wrong alone."""
    try:
        content = parse_json(read_text(stage / MANIFEST))
        version, whole = content["version"], "sha256" in content and has_own_hash(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged ({error})") from None
    if version != _VERSION:
        raise ValueError(f"of version {version!r}, and this seekr reads {_VERSION}; use the seekr that wrote it")
    if not whole:
        raise ValueError("damaged, it is not what was written")
    return dict(content)


def _hash_ahead(paths: Sequence[Path], what: str) -> None:
    """Hashes large files, which whoever asks next knows then, with a bar for how much of them is read."""
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    if sum(sizes.values()) < _WORTH_A_BAR:
        return
    with (
        bar(f"hashing {what}, MB", sum(size // _MB for size in sizes.values())) as advance,
        ThreadPoolExecutor() as pool,
    ):
        waiting = {pool.submit(file_digest, path): size for path, size in sizes.items()}
        for done in as_completed(waiting):
            advance(waiting[done] // _MB)


def _lists_weights(stage: Path) -> bool:
    try:
        return any(name.startswith("model/") for name in _read(stage)["files"])
    except ValueError:
        return False


def missing_manifest(stages: Sequence[Path], record: Mapping[str, Any]) -> Path | None:
    """The first manifest that a stage has lost; those of earlier versions had none."""
    lost = (stage for stage in stages if not (stage / MANIFEST).is_file() and not unverified([stage], record))
    return next((stage / MANIFEST for stage in lost), None)


def _link_faults(stages: Sequence[Path], record: Mapping[str, Any]) -> Iterator[Fault]:
    stage = stages[-1]
    if not (stage / MANIFEST).exists():
        if not unverified([stage], record):
            yield Fault(stage / MANIFEST, "missing")
        return
    try:
        about = _read(stage)
    except ValueError:
        return  # said with its files
    if about["stage"] != stage.name:
        yield Fault(stage, f"this is stage {about['stage']}, under another name")
    if about["previous"] != link_of(stages[:-1], record):
        before = stages[-2].name if len(stages) > 1 else "the beginning in run.json"
        yield Fault(stage, f"not learned after {before} as it is here; one was changed, swapped or is of another run")


def record_faults(record: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    """Whether run.json, the `record`, is what was written; earlier versions wrote no hash."""
    if not has_own_hash(record):
        yield Fault(path, "not what was written; bring it back, or remove its key sha256 if you changed it")
