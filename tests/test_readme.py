"""What the README shows is run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from seekr.builtin import builtin_model, builtin_rows
from seekr.cli import main
from seekr.methods import METHODS

ROOT = Path(__file__).parents[1]


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert found, f"the README has no {language} block"
    return found[1]


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(_block("python"), names)
    run = names["run"]
    assert run.scores.matrix[0][0] > 50  # type: ignore[attr-defined]
    assert (tmp_path / "runs" / "first" / "stages" / "01-reverse" / "memory" / "memory.json").is_file()


def test_yaml_example_and_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command on the README's configuration, on rows and a model that stand where the YAML looks."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my-llama").symlink_to(builtin_model())
    work = tmp_path / "work"
    for name, task in (("chat.jsonl", "span"), ("support", "upper"), ("triage", "sort"), ("billing", "reverse")):
        for split in ("train", "test"):
            rows = builtin_rows(task, split, seed=0, count=24)
            path = work / "data" / name if name.endswith(".jsonl") else work / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "config.yaml").write_text(_block("yaml"))
    monkeypatch.chdir(work)
    commands = re.findall(
        r"^seekr ((?:learn|status|heads|memory|report|tune|compare) .*?)(?:\s+#.*)?$",
        (ROOT / "README.md").read_text(),
        flags=re.MULTILINE,
    )
    assert len(commands) >= 10
    for command in commands:
        words = shlex.split(command)
        if words[1] == "config.yaml":
            words.append("training.num_train_epochs=1")
        assert main(words) == 0, command
    assert (work / "report.html").is_file()


def test_every_method_and_key_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text() + (ROOT / "docs" / "method.md").read_text()
    for name, kind in METHODS.items():
        assert f"`{name}`" in page
        for key in kind().settings():
            assert key == "name" or key in page, f"{name}.{key}"


def test_tables_are_those_of_the_committed_measurements() -> None:
    readme = (ROOT / "README.md").read_text()
    listed = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["tables"]()
    for name, table in listed.items():
        assert table in readme, f"the {name} table of the README is not that of benchmarks/results"
