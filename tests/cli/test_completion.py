"""A shell that asks by argcomplete's protocol is told what may come next, without the seconds that torch takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def completions(line: str, folder: Path) -> set[str]:
    """What argcomplete's scripts are given for a line that ends at the cursor, where torch cannot be imported."""
    (folder / "torch.py").write_text("raise SystemExit('torch was imported')")
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "found")}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", "seekr"], env=os.environ | asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in (folder / "found").read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seekr le", {"learn"}),
        ("seekr e", {"env", "evaluate", "export"}),
        ("seekr learn --dr", {"--dry-run"}),
        ("seekr evaluate RUN --cells ", {"paper", "seen", "all"}),
    ],
)
def test_what_may_come_next(line: str, expected: set[str], tmp_path: Path) -> None:
    assert completions(line, tmp_path) == expected
