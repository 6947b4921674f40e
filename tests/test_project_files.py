"""What is said of versions, in one place as in another; and what a package gives away at its top."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import seekr

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def workflow(name: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    assert isinstance(found, dict)
    return found


def lower_bound(package: str) -> str:
    return next(text.removeprefix(f"{package}>=") for text in PROJECT["project"]["dependencies"] if package in text)


def test_the_tests_run_on_every_python_that_is_promised() -> None:
    tested = workflow("tests")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = [text.rsplit(" ", 1)[1] for text in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert tested == named
    assert PROJECT["project"]["requires-python"] == f">={tested[0]}"


def test_the_oldest_transformers_and_torch_that_are_tested_are_those_that_are_admitted() -> None:
    ways = workflow("tests")["jobs"]["transformers"]["strategy"]["matrix"]["include"]
    oldest, newest = (next(way["packages"] for way in ways if way["which"] == which) for which in ("oldest", "newest"))
    for package in ("torch", "transformers"):
        assert f"{package}=={lower_bound(package)}.*" in oldest.split()
    assert newest == ""


def test_workflows_call_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    texts = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    texts += [
        (ROOT / ".ci" / "run").read_text(),
        (ROOT / "README.md").read_text(),
        (ROOT / "CONTRIBUTING.md").read_text(),
    ]
    called = {name for text in texts for name in re.findall(r"(?:run: |^|=1 |`)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"test", "test-all", "tests", "check", "coverage"} <= called <= targets


def test_what_is_developed_with_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    own = [text for text in extras["dev"] if not text.startswith("seekr-continual[")]
    for text in own + extras["metrics"] + extras["encryption"] + PROJECT["project"]["dependencies"]:
        name = re.split(r"[>=<]", text)[0]
        spellings = {name, name.replace("-", "_"), name.capitalize(), "PyYAML", "RapidFuzz"}
        pins = [pin for pin in PINS if pin in spellings and pin.lower().replace("_", "-") == name.lower()]
        assert pins, f"{name} is in pyproject.toml and not in constraints.txt"


def test_pre_commit_has_the_pinned_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    wanted = [package for hook in hooks for package in hook.get("additional_dependencies", [])]
    assert wanted == [f"ruff=={PINS['ruff']}"] * 2


def test_the_image_is_built_from_files_that_are_there_and_reach_the_builder() -> None:
    copied = re.findall(r"^COPY (.*) \./\S*$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    ignored, *let_through = (ROOT / ".dockerignore").read_text().split()
    assert names >= {"pyproject.toml", "seekr", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert (ignored, names) == ("*", {name.removeprefix("!") for name in let_through if name.startswith("!")})
    assert all((ROOT / name).exists() for name in names)


def test_extras_that_pages_name_are_there_and_each_is_explained() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    sources = [ROOT / "Dockerfile", ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "seekr").rglob("*.py")]
    text = "".join(path.read_text() for path in sources)
    named = re.findall(r"(?:seekr-continual|'\.)\[([a-z,-]+)\]|EXTRAS=([a-z,-]+)", text)
    assert {name for found in named for name in ",".join(found).split(",") if name} <= extras
    explained = (ROOT / "docs" / "installing.md").read_text().partition("## Extras")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", explained, flags=re.MULTILINE)) == extras


def test_version_and_licence_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first is not None
    assert PROJECT["project"]["version"] in first[1]


def test_issue_forms_ask_something() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        assert any(part.get("validations", {}).get("required") for part in form["body"])


@pytest.mark.parametrize("name", seekr.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(seekr, name)
    assert value.__doc__
    assert name in dir(seekr)


def test_import_seekr_is_light() -> None:
    code = "import seekr, sys, json; seekr.InputError; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "transformers", "pydantic", "numpy"} & set(loaded)


def test_the_memory_format_that_the_page_names_is_the_one_that_is_written() -> None:
    from seekr.memory.about import VERSION

    page = (ROOT / "docs" / "compatibility.md").read_text()
    assert f"| `memory/memory.json` | `version`, now {VERSION} |" in page
