"""The file of `on_a_gpu.py`: a line of JSON a case. As a plugin of pytest (`-p gpu_rows`) it adds one for each test."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from json_rows import add, commit, rows_of

VARIABLE = "SEEKR_GPU_ROWS"
"""What a process that measures tells pytest: the fields of its `Rows`, as JSON."""


@dataclass(frozen=True)
class Rows:
    """Those of one part on one device: `gpu` is its name, or null on a CPU. `step` processes share the cases."""

    file: str
    part: str
    gpu: str | None
    tiny: bool
    first: int = 0
    step: int = 1

    def passed(self) -> dict[str, bool]:
        """Case → whether it passed when it was last measured here."""
        key = {"part": self.part, "gpu": self.gpu, "tiny": self.tiny}
        rows = [row for row in rows_of(Path(self.file)) if key.items() <= row.items()]
        return {row["case"]: row["passed"] for row in rows}

    def add(self, case: str, found: dict[str, Any]) -> bool:
        """Writes a row; it passed where nothing says otherwise, which is what is returned."""
        row = {"part": self.part, "case": case, "gpu": self.gpu, "tiny": self.tiny, "commit": commit()}
        row |= {"passed": True} | found
        add(row, Path(self.file))
        return bool(row["passed"])

    def environment(self) -> dict[str, str]:
        """That of a pytest that is to write here."""
        return os.environ | {VARIABLE: json.dumps(asdict(self)), "PYTHONPATH": _python_path()}


def _python_path() -> str:
    here = Path(__file__).resolve().parent
    return os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def _rows() -> Rows | None:
    return Rows(**json.loads(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Tests that passed here are left out, those that failed come last."""
    rows = _rows()
    if rows is None:
        return
    passed, share = rows.passed(), items[rows.first :: rows.step]
    left = [item for item in share if not passed.get(item.nodeid)]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = sorted(left, key=lambda item: item.nodeid in passed)


def pytest_runtest_logreport(report: Any) -> None:
    """A row once a test is over, or could not begin."""
    rows = _rows()
    if rows and (report.when == "call" or not report.passed):
        found = {"passed": not report.failed, "outcome": report.outcome, "seconds": report.duration}
        rows.add(report.nodeid, found | ({} if report.passed else {"why": report.longreprtext[-500:]}))
