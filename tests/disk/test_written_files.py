"""Files that are whole or not there, whatever stands under the name that they have until they are whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seekr.disk.files import clear_folder, sync, write_atomically
from seekr.errors import InputError


def link_to_a_file(place: Path) -> None:
    (place.parent / "elsewhere").write_text("theirs")
    place.symlink_to("elsewhere")


def link_to_a_folder(place: Path) -> None:
    (place.parent / "a folder").mkdir()
    (place.parent / "a folder/file").write_text("theirs")
    place.symlink_to("a folder")


def dangling_link(place: Path) -> None:
    place.symlink_to("nowhere")


def left_by_a_killed_process(place: Path) -> None:
    place.write_text("half of")


def theirs(folder: Path) -> dict[str, str]:
    """What links that were planted lead to."""
    return {path.name: path.read_text() for path in (folder / "elsewhere", folder / "a folder/file") if path.is_file()}


PLANTED = [left_by_a_killed_process, link_to_a_file, link_to_a_folder, dangling_link, os.mkfifo]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_stands_under_the_name_of_a_file_that_is_not_whole_yet_is_taken_away(
    plant: Callable[[Path], None], tmp_path: Path
) -> None:
    plant(tmp_path / ".file.partial")
    before = theirs(tmp_path)
    write_atomically(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert not (tmp_path / "file").is_symlink()
    assert not os.path.lexists(tmp_path / ".file.partial")
    assert not (tmp_path / "nowhere").exists()
    assert theirs(tmp_path) == before


def test_a_folder_there_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("file", "other"):
        with pytest.raises(InputError, match=rf"{name}.*: is a folder, .*; remove it"):
            write_atomically(tmp_path / name, "whole")
    assert (tmp_path / ".file.partial").is_dir()
    assert not (tmp_path / ".other.partial").exists()


@pytest.mark.parametrize("plant", [*PLANTED, Path.mkdir])
def test_a_folder_is_made_where_something_was_left(plant: Callable[[Path], None], tmp_path: Path) -> None:
    plant(tmp_path / ".folder.partial")
    before = theirs(tmp_path)
    clear_folder(tmp_path / ".folder.partial")
    (tmp_path / ".folder.partial").mkdir()
    assert theirs(tmp_path) == before


def test_a_fifo_is_not_waited_for_where_a_folder_is_put_on_the_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "fifo")


def test_nothing_is_left_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that found the disk full left `.p.html.partial` in the user's folder."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "p.html").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*p\.html"):
        write_atomically(tmp_path / "p.html", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
    assert (tmp_path / "p.html").read_text() == "old"
