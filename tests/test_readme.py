"""What the README shows is run."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.main import main
from seekr.config.recipes import recipe_names
from seekr.data.presets import PRESETS
from seekr.methods import METHODS

ROOT = Path(__file__).parents[1]


def _block(language: str, behind: str = "") -> str:
    text = (ROOT / "README.md").read_text().partition(behind)[2] if behind else (ROOT / "README.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found, f"the README has no {language} block"
    return found[1]


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(_block("python"), names)
    runs: Any = names["runs"]
    plain, held = runs["sequential"].scores.matrix, runs["seekr"].scores.matrix
    assert plain[0][0] == held[0][0] > 80  # the first task is learned before anything is kept
    assert plain[1][0] < 30
    assert held[1][0] > held[0][0] - 20
    assert min(plain[1][1], held[1][1]) > 90
    assert (tmp_path / "runs" / "first" / "seekr" / "stages" / "01-upper" / "memory" / "memory.json").is_file()


@pytest.mark.thorough
def test_yaml_example_and_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the README's shell blocks, on rows and a model where it looks; recipes as dry runs."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my-llama").symlink_to(builtin_model())
    work = tmp_path / "work"
    for name, task in (("chat.jsonl", "span"), ("support", "upper"), ("triage", "sort"), ("billing", "reverse")):
        for split in ("train", "test"):
            rows = builtin_rows(task, split, seed=0, count=24)
            path = work / "data" / name if name.endswith(".jsonl") else work / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in PRESETS["trace-order-1"].names:
        for split in ("train", "eval", "test"):
            path = work / "data" / "TRACE" / name / f"{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(builtin_rows("upper", split, seed=0, count=4)))
    (work / "config.yaml").write_text(_block("yaml"))
    (work / "data" / "new.jsonl").write_text(json.dumps(builtin_rows("sort", "test", seed=1, count=1)[0]))
    monkeypatch.chdir(work)
    monkeypatch.setattr("sys.stdin", io.StringIO("span: ab[c]d="))
    names = "learn|plan|tasks|status|heads|graft|memory|report|tune|compare|chat|score|export"
    page = (ROOT / "README.md").read_text()
    commands = re.findall(rf"^seekr ((?:{names}) .*?)(?:\s+#.*)?$", page, flags=re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        words = shlex.split(command)
        if words[1] == "config.yaml":
            words.append("training.num_train_epochs=1")
        if "--recipe" in words:
            words += ["tasks.max_new_tokens=4", "--dry-run"]
        assert main(words) == 0, command
    assert (work / "report.html").is_file()
    exec(_block("python", behind="## Use what was learned"), {})


def test_every_method_and_key_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text() + (ROOT / "docs" / "method.md").read_text()
    for name, kind in METHODS.items():
        assert f"`{name}`" in page
        for key in kind().settings():
            assert key == "name" or f"`{key}`" in page or f"`method.{key}`" in page, f"{name}.{key}"


def test_every_preset_is_documented_as_it_is() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for name, preset in PRESETS.items():
        tasks = ", ".join(task.removeprefix("task") for task in preset.names)
        epochs = list(dict.fromkeys(task["num_train_epochs"] for task in preset.tasks))
        shown = epochs if len(epochs) == 1 else [task["num_train_epochs"] for task in preset.tasks]
        assert f"| `{name}` | {tasks} | {' '.join(map(str, shown))} |" in page
    assert all(f"`{name}`" in page for name in recipe_names())


def test_tables_are_those_of_the_committed_measurements() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    listed = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["tables"]()
    for name, table in listed.items():
        assert table in pages, f"the {name} table of README or docs is not that of benchmarks/results"


def test_methods_missing_from_the_demos_table_are_named_beside_it() -> None:
    page = (ROOT / "docs" / "methods.md").read_text().partition("## On the demo's suite")[2]
    table, _, rest = page.partition("- Not in the table:")
    assert table.count("\n| `") >= 10
    named = rest.partition("\n- ")[0]
    for name in METHODS:
        assert f"\n| `{name}` |" in table or f"`{name}`" in named, name


def test_tests_and_code_that_the_docs_name_are_there() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    named = re.findall(r"`((?:tests|seekr)/[\w/]+\.py)::(\w+)`", pages)
    assert len(named) > 30
    for file, name in named:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
