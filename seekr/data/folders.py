"""Which files of a folder, or of a data set of the hub, hold the rows of a split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seekr.data.files import FORMATS, NumberedRow, format_of, rows_of_bytes, rows_of_file, stem_of
from seekr.data.hub import hub_or_cache
from seekr.errors import InputError, first_line

Split = Literal["train", "eval", "test"]
NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "eval": ("eval", "validation", "valid", "val", "dev", "evaluation"),
    "test": ("test", "testing"),
}
"""What files and data sets call each split; names of shards, and of folders of them, say it among other words."""

_NUMBERED = re.compile(r"[a-z]+[-_.]?(part|shard)?[-_.]?[0-9]+([-_.]of[-_.][0-9]+)?", re.IGNORECASE)

_ABOUT = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_PACKED = (".zst", ".xz", ".bz2", ".zip", ".7z", ".lz4", ".tar", ".tgz", ".arrow")
_GUESSING = ("json", "csv")
"""Builders of the datasets library that make dates and numbers of strings; their files are read here."""


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, by any of the split's names; None if there is none.

    Raises InputError where there are several: they would be two answers to one question.
    """
    found = _named(folder, split)
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise InputError(f"{folder}: holds {names}, and only one of them can be {split}; remove or rename the others")
    if not found:
        return None
    shards = _splits_of_shards(folder).items()
    if shard := next((shard for shard, name in shards if name == split and shard not in found), None):
        raise InputError(
            f"{folder}: holds {found[0].name} and {shard.relative_to(folder)}, which may be the same rows twice; "
            "remove or rename one of them"
        )
    return found[0]


def _named(folder: Path, split: str) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in there if file.is_file() and format_of(file) and stem_of(file).lower() in NAMES[split]]


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder, in their order: one that is named for it, or shards; none if there are none.

    Shards say their split in their own name or in that of a folder on the way to them ("train-00000-of-00002.parquet",
    "test/part-0.jsonl"). Where none says one, they are the rows of whatever split the folder is given as. Raises
    InputError where a file could be taken for something else.
    """
    if file := split_file(folder, split):
        return [file]
    splits = _splits_of_shards(folder)
    if set(splits.values()) == {None}:
        return list(splits)
    stray = next((shard for shard, name in splits.items() if name is None), None)
    if stray is not None:
        raise InputError(
            f"{folder}: {stray.relative_to(folder)} is not named for a split, and other files here are; rename it, or "
            "move it away"
        )
    return [shard for shard, name in splits.items() if name == split]


def splits_of_folder(folder: Path) -> list[str]:
    """The splits that a folder says that it holds rows of; none where its files name no split. Raises InputError."""
    said = set(_splits_of_shards(folder).values())
    return [split for split in NAMES if split in said or _named(folder, split)]


def rows_of_folder(folder: Path, split: Split) -> Iterator[NumberedRow]:
    """Every row of a split: of its files, of what `save_to_disk` left, or of a data set laid out as on the hub."""
    if files := split_files(folder, split):
        return (row for file in files for row in rows_of_file(file))
    if held := splits_of_folder(folder):
        raise InputError(f"{folder}: no {split}.json, {split}.jsonl or other {split} rows here, only {', '.join(held)}")
    if is_saved(folder):
        return _numbered(str(folder), picked(load_saved(folder), split, str(folder)))
    return rows_of_hub(str(folder), split, nothing_in(folder))


def nothing_in(folder: Path) -> str:
    """How the message begins about a folder that holds no rows."""
    return f"{folder}: no train.json or train.jsonl, no other file of rows, and no data set that can be loaded"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the datasets library has written a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def load_saved(folder: Path) -> Any:
    """A Dataset or a dict of them by split, as `save_to_disk` has written it. Raises InputError."""
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow and datasets raise all kinds for torn files; the user sees one line
        raise InputError(f"{folder}: the saved data set cannot be loaded: {first_line(error)}") from None


def rows_of_hub(name: str, split: Split, where: str) -> Iterator[NumberedRow]:
    """Every row of a split of a data set of the hub, `owner/name[:configuration]`, or of a folder laid out like one.

    `where` begins what is said if it cannot be loaded. Raises InputError.
    """
    found = picked(open_hub(name, where), split, name)
    if not isinstance(found, _Files):
        return _numbered(name, found)
    return (
        row
        for path in found.paths
        for row in rows_of_bytes(_fetched(path, found.base, where).read_bytes(), path, either_json=True)
    )


def open_hub(name: str, where: str) -> Any:
    """The splits of a data set of the hub, each as its rows, or as files where the library would guess their types."""
    if Path(name).is_dir() and not _says_its_files(Path(name)) and (deeper := _deeper(Path(name))):
        raise InputError(f"{name}: its rows lie deeper, such as {deeper}; give the file, or the folder that it is in")
    with hub_or_cache(asked=not Path(name).is_dir()):
        return _open(name, where)


def _open(name: str, where: str) -> Any:
    import datasets

    repository, _, configuration = (name, "", "") if Path(name).is_dir() else name.partition(":")
    try:
        builder = datasets.load_dataset_builder(repository, configuration or None)
        files = builder.config.data_files if builder.name in _GUESSING else None
        splits = {str(key): _Files(list(map(str, value)), builder.base_path) for key, value in (files or {}).items()}
        if splits and all(format_of(path) for split in splits.values() for path in split.paths):
            return splits
        return datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the clients of the hub raise all kinds; the user sees one line
        raise InputError(f"{where}: {first_line(error)}") from None


@dataclass(frozen=True)
class _Files:
    paths: list[str]
    base: str | None


def _fetched(path: str, base: str | None, where: str) -> Path:
    import datasets

    try:
        return Path(datasets.DownloadManager(base_path=base).download(path))
    except Exception as error:
        raise InputError(f"{where}: {path}: {first_line(error)}") from None


def pick(data: Any, split: str) -> Any | None:
    """The rows of a split. A Dataset without splits is the training rows, or whatever split it is named for."""
    if not isinstance(data, dict):
        return data if split == "train" else None
    return next((data[name] for name in NAMES[split] if name in data), None)


def picked(data: Any, split: Split, where: str) -> Any:
    """The rows of a split, all of them where there are no splits. Raises InputError where it is not among them."""
    rows = pick(data, split) if isinstance(data, dict) else data
    if rows is None:
        raise InputError(f"{where}: the data set has no split {split!r}, only {', '.join(map(str, data))}")
    return rows


def _numbered(where: str, rows: Any) -> Iterator[NumberedRow]:
    return ((f"{where}, row {number}", row) for number, row in enumerate(rows, start=1))


def _shards(folder: Path) -> list[Path]:
    """The files of rows in a folder, in `data` and in folders that are named for a split, by their names."""
    if is_saved(folder) or _says_its_files(folder):
        return []
    files = sorted(path for place in _places(folder) for path in place.iterdir() if _is_shown_file(path))
    shards = [path for path in files if format_of(path)]
    if shards and (other := next((path for path in files if path.suffix.lower() in _PACKED), None)):
        raise InputError(
            f"{folder}: {other.relative_to(folder)} cannot be read with the other files; rows are read from "
            f"{', '.join(FORMATS)}, each also with .gz after it"
        )
    return shards


def _places(folder: Path) -> Iterator[Path]:
    for root in (folder, folder / "data"):
        if root.is_dir():
            yield root
            yield from (path for path in sorted(root.iterdir()) if path.is_dir() and _split_of(Path(path.name)))


def _deeper(folder: Path) -> Path | None:
    found = (path for path in sorted(folder.rglob("*")) if _is_shown_file(path) and format_of(path))
    return next((path.relative_to(folder) for path in found), None)


def _is_shown_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name not in _ABOUT


def _says_its_files(folder: Path) -> bool:
    """Whether a README says which files belong to which split, as the hub understands it."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    return re.search(r"^\s*(- )?data_files\s*:", text, re.MULTILINE) is not None


def _splits_of_shards(folder: Path) -> dict[Path, str | None]:
    """Shard → its split. Next to a file with the name of a split alone, only what is numbered is a shard."""
    shards = _shards(folder)
    if any(_named(folder, split) for split in NAMES):
        shards = [shard for shard in shards if _NUMBERED.fullmatch(stem_of(shard))]
    seen: dict[Path, Path] = {}
    for path in shards:
        twin = seen.setdefault(path.with_name(stem_of(path)), path)
        if twin != path:
            both = f"{twin.relative_to(folder)} and {path.name}"
            raise InputError(f"{folder}: holds {both}, which may be the same rows twice; remove or rename one of them")
    return {shard: _split_of(shard.relative_to(folder)) for shard in shards}


def _split_of(path: Path) -> str | None:
    """The split that a file's own name says, or else the nearest folder's."""
    for part in (stem_of(path), *reversed(path.parts[:-1])):
        words = set(re.split(r"[^a-z]+", part.lower()))
        said = [split for split, names in NAMES.items() if words & {*names}]
        if len(said) == 1:
            return said[0]
    return None
