"""The examples run, from anywhere, and come to what they say."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seekr import Run

pytestmark = pytest.mark.thorough

EXAMPLES = Path(__file__).parents[1] / "examples"
Example = Callable[[str], str]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Runs an example with tmp_path / "out" as its folder, and gives what it prints."""

    def run(name: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "out"])
        if name.endswith(".py"):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        else:
            cells = json.loads((EXAMPLES / name).read_text())["cells"]
            exec("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), {})
        return capsys.readouterr().out

    return run


def test_two_tasks(example: Example, tmp_path: Path) -> None:
    shown = example("two_tasks.py").splitlines()
    for name, line in zip(("plain", "seekr"), shown[:2], strict=True):
        assert line == f"{name} {Run(tmp_path / 'out' / name).scores.matrix}"
    assert len(shown) == 4


def test_from_yaml(example: Example, tmp_path: Path) -> None:
    example("from_yaml.py")
    assert [stage.name for stage in Run(tmp_path / "out" / "run").stages] == ["span", "upper"]
    assert [stage.name for stage in Run(tmp_path / "out" / "run-2").stages] == ["span", "upper", "sort"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_own_method(example: Example, tmp_path: Path) -> None:
    """The rows with the longest answers are kept, by a method that seekr knows by its module and class."""
    shown = example("own_method.py").splitlines()
    run = Run(tmp_path / "out")
    assert run.record["config"]["method"] == {
        "name": "__main__.LongestAnswers",
        "replay_ratio": None,
        "replay_passes": 4,
        "replay_choice": "random",
    }
    for stage, line in zip(run.stages, shown, strict=True):
        assert stage.memory is not None
        assert len(stage.memory) == 20
        assert line.startswith(f"{stage.name} keeps answers of [")


def test_attention(example: Example) -> None:
    heads, loss = re.fullmatch(r"(\{.*\}) (\S+) nats\n", example("attention.py")).groups()  # type: ignore[union-attr]
    assert sum(map(len, ast.literal_eval(heads).values())) == 4
    assert float(loss) > 0


def test_kept_and_lost(example: Example, tmp_path: Path) -> None:
    """The notebook's cells, one after another, as a kernel runs them."""
    shown = example("kept_and_lost.ipynb")
    plain, kept = (Run(tmp_path / "runs" / "notebook" / name).scores.matrix for name in ("sequential", "seekr"))
    assert plain[0][0] == kept[0][0] > 80
    assert plain[2][0] < 30 < kept[2][0]
    assert shown.count("overall performance") == 2
    assert shown.count("20 rows kept; layer") == 3


def test_every_example_is_run() -> None:
    names = {path.stem for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert names == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_is_run"
    }
