"""Files that were found to end in something else than an answer or a line, and whole ones of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_readers import WHOLE, make_place, use

CORPUS = Path(__file__).with_name("corpus")
"""A folder for each kind of file, "/" in its name written "--"."""


def found() -> list[tuple[str, Path]]:
    return [(folder.name.replace("--", "/"), file) for folder in sorted(CORPUS.glob("*")) for file in folder.iterdir()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize(("name", "file"), found(), ids=lambda it: getattr(it, "name", it))
def test_file_that_was_found_is_used_or_refused_in_a_line(name: str, file: Path, place: Path) -> None:
    try:
        (place / name).write_bytes(file.read_bytes())
        use(place, name)
    finally:
        (place / name).write_bytes(WHOLE[name])


@pytest.mark.parametrize("name", WHOLE)
def test_whole_file_is_read(name: str, place: Path) -> None:
    use(place, name)
