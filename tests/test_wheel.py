"""What is installed from the package index is what lies here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "seekr", tmp_path / "seekr", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("seekr_continual-*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("seekr/")}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seekr").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == here
