"""The places of a run that it writes, reads or removes, looked at before it does any of that.

Nothing lies in the way, nothing leads out of the folder, and the key opens what is encrypted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from seekr.disk.files import check_room
from seekr.disk.regular import regular
from seekr.disk.sealed import is_encrypted, read_text
from seekr.disk.tensors import Tensors
from seekr.errors import InputError
from seekr.runs.exchange import check_settled
from seekr.runs.folder import check_copied, finished_stages
from seekr.runs.general_tasks import GENERAL_FILE, read_general
from seekr.runs.grafted import GRAFT_FILE
from seekr.runs.kept_scores import KeptScores
from seekr.runs.manifest import file_faults
from seekr.scoring.cells import BASE, row_name

_FOLDERS = ("predictions", "stages", "working", "logs")
_LINES = ".jsonl"


def check_places(run: Path) -> None:
    """What a run writes lies in its folder: a received one may lead elsewhere, or hold what is no file, or no folder.

    Raises InputError naming it.
    """
    folders = [*(run / name for name in _FOLDERS), *run.glob("working/[0-9]*-*")]
    below = (path for name in ("predictions/*", "working/**/*", "logs/**/*") for path in run.glob(name))
    for path in (*folders, *run.glob(".*.partial"), *below):
        if path.name.startswith(".") and path.suffix == ".partial":
            whole = path.name[1:].removesuffix(".partial")
            if whole == "model" or whole.endswith((".json", _LINES)):
                check_room(path)
            continue  # taken away before anything is written under this name
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and seekr would write where it leads; put the file or folder itself there"
            )
        if path.exists() and (not path.is_dir() or path.suffix == _LINES):
            regular(path)
        if path in folders and path.is_file():
            raise InputError(f"{path}: is a file, where a run has a folder; move it away")


def check_home(home: Path, run: Path) -> None:
    """Where the stages of a run are: its own folder, or that of a run which it takes over. Raises InputError."""
    if home != run:
        check_settled(home)
        for folder in (home / "predictions", *finished_stages(home)):
            check_copied(folder)
        for path in (home / "scores.json", home / GENERAL_FILE):
            check_copied(path)
            if path.exists():
                regular(path)


def check_key(home: Path, finished: Sequence[Path]) -> None:
    """The key opens what is encrypted of the stages that stay, where that is what was written. Raises InputError."""
    kept = KeptScores.read(home / "scores.json", put_aside=False)
    stay = {row_name(row) for row in range(BASE, len(finished))}
    for path in sorted(home.glob("predictions/*.jsonl")):
        with suppress(OSError):  # whoever reads answers makes up for those that cannot be read
            if path.name.partition("-")[0] in stay and not kept.are_others(path) and is_encrypted(path):
                read_text(path)
    for stage in finished:
        with suppress(OSError, SafetensorError):  # one that is damaged is named with its stage
            rows = Tensors(stage / "memory" / "samples.safetensors")
            if rows.encrypted and not any(file_faults(stage, hashed=True, weights=False, only="memory/samples")):
                rows.get_tensor("ends")


def check_removable(redone: Sequence[Path], dropped: Sequence[Path]) -> None:
    """What goes once a run begins: stages that are `redone`, and in the end the weights of those that are `dropped`.

    Raises InputError for links, and for what is noted of the stages and cannot be read.
    """
    for path in (*redone, *dropped, *(stage / "model" for stage in dropped)):
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and --redo or keep_stages removes a folder alone; put the folder itself there"
            )
    for run in {stage.parents[1] for stage in redone}:
        read_general(run)
        if (run / GRAFT_FILE).exists():
            regular(run / GRAFT_FILE)
