"""The pages of docs/ say what the code has: names, messages, variables, files. That links hold, `make site` checks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

import seekr
from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.parser import parse

ROOT = Path(__file__).parents[1]
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "seekr").rglob("*.py")))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a page's tables, headings and rules included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_every_page_has_a_place_in_the_site() -> None:
    def names(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [name for below in (part.values() if isinstance(part, dict) else part) for name in names(below)]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(names(config["nav"])) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_page_on_python_has_every_public_name() -> None:
    named = re.findall(r"^::: seekr\.(\w+)$", page("api.md"), flags=re.MULTILINE)
    assert sorted(named) == sorted(name for name in seekr.__all__ if name != "methods")


def test_every_message_on_the_page_of_faults_is_one_that_is_said() -> None:
    messages = page("faults.md").partition("## Messages")[2].partition("\n## ")[0]
    quoted = [words for row in rows(messages)[2:] for words in re.findall(r"`(.*?)`", row[0])]
    assert len(quoted) >= 12
    assert [words for words in quoted if words not in SOURCE] == []


def test_every_variable_of_ours_is_on_its_page_and_every_one_there_is_read() -> None:
    files = [path for folder in ("seekr", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in files for name in re.findall(r"\bSEEKR_[A-Z_]+\b", path.read_text())}
    assert set(re.findall(r"\bSEEKR_[A-Z_]+\b", page("environment.md"))) == used


def test_every_variable_that_is_read_is_on_the_page() -> None:
    read = re.findall(r"environ(?:\.get\(|\.setdefault\(|\[)\"([A-Z_]+)\"", SOURCE)
    assert len(read) > 8
    assert [name for name in read if f"`{name}" not in page("environment.md") and name != "_ARGCOMPLETE"] == []


@pytest.mark.thorough
def test_every_file_and_key_of_a_run_is_on_its_page(tmp_path: Path) -> None:
    tasks = [
        seekr.Task(
            name, train=builtin_rows(name, "train", seed=0, count=8), test=builtin_rows(name, "test", seed=0, count=2)
        )
        for name in ("span", "upper")
    ]
    method = {"name": "seekr", "replay_ratio": 0.2}
    seekr.learn(model=builtin_model(), tasks=tasks, method=method, training={"max_steps": 2}, output_dir=tmp_path)
    text = page("files.md")
    for path in tmp_path.rglob("*"):
        if path.parent.name != "model" and path.name not in ("00-span", "01-upper"):
            shown = re.sub(r"\d+-\d+", "I-J", re.sub(r"\d{5}", "NNNNN", path.name))
            assert shown in text, path
    stage = tmp_path / "stages" / "01-upper"
    for path in (tmp_path / "run.json", tmp_path / "scores.json", stage / "stage.json", stage / "manifest.json"):
        assert [key for key in json.loads(path.read_text()) if f"`{key}`" not in text] == [], path
    with safe_open(stage / "importance.safetensors", "pt") as file:
        assert [key for key in file.keys() if f"`{key}`" not in text] == []  # noqa: SIM118


def test_every_command_on_a_page_is_understood() -> None:
    """Lines with `...` or an option in brackets say what there is, and are no commands."""
    lines = [
        (path.name, line.partition("  #")[0])
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for block in re.findall(r"^```sh\n(.*?)^```$", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    commands = [
        (name, line) for name, line in lines if line.startswith("seekr ") and not re.search(r"\[--|\.\.\.", line)
    ]
    assert len(commands) > 60
    for name, line in commands:
        try:
            parse(shlex.split(line)[1:])
        except seekr.InputError as error:
            raise AssertionError(f"{name}: {line}: {error}") from error
