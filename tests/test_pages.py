"""What the pages tell a newcomer to type is run, in the order of the page, in one folder, to the letter.

A block with a title is a file of that name; lines of `sh` blocks are commands; `python` blocks without a title are run.
"""

from __future__ import annotations

import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from seekr import Run
from seekr.builtin import builtin_model
from seekr.cli.main import main

pytestmark = pytest.mark.thorough

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {"demo": "tests/runs/test_demo.py"}  # command → where it is run instead
CHATML = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, title and text of each fenced block."""
    found = re.findall(r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```$', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(found) == page.read_text().count("\n```") // 2, f"a block of {page.name} is not understood"
    yield from found


def walk(page: str, monkeypatch: pytest.MonkeyPatch, status: dict[str, int] | None = None) -> None:
    """Does what a page says, in the working directory. `status` is what commands end with, if not with 0."""
    for language, title, text in blocks(DOCS / page):
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(text)
        elif language == "python":
            exec(text, {"__name__": "__page__"})
        elif language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                type_line(line.partition("  #")[0].strip(), monkeypatch, status or {})


def type_line(line: str, monkeypatch: pytest.MonkeyPatch, status: dict[str, int]) -> None:
    if piped := re.fullmatch(r'echo "(.*)" \| (.*)', line):
        monkeypatch.setattr("sys.stdin", io.StringIO(piped[1] + "\n"))
        line = piped[2]
    if line.startswith("PYTHONPATH=. "):
        monkeypatch.syspath_prepend(Path.cwd())
        line = line.removeprefix("PYTHONPATH=. ")
    program, *words = shlex.split(line)
    if program == "python":
        runpy.run_path(words[0], run_name="__main__")
    elif words[0] not in ELSEWHERE:
        assert program == "seekr", f"{line}: the test does not know how to run it"
        assert main(words) == status.get(line, 0), line


def chat_model(folder: Path) -> None:
    """A small random Llama with a chat template, in place of the reader's own."""
    tokenizer = AutoTokenizer.from_pretrained(builtin_model())
    tokenizer.chat_template = CHATML
    tokenizer.model_max_length = 512
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return folder


def few_files(work: Path) -> None:
    """Those of a first run, with few rows."""
    for _, title, text in blocks(DOCS / "first-run.md"):
        if title:
            (work / title).write_text(text.replace("300", "32").replace("50)", "4)"))
    runpy.run_path("make_files.py", run_name="__main__")


def matrix(folder: Path) -> list[list[Any]]:
    return Run(folder).scores.matrix


def test_first_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's claims hold: what seekr keeps, plain fine-tuning loses; a third task can follow."""
    walk("first-run.md", monkeypatch)
    kept, plain = matrix(work / "runs" / "first"), matrix(work / "runs" / "plain")
    assert kept[0][0] == plain[0][0] > 80
    assert plain[1][0] < 30 < kept[1][0]
    assert [stage.name for stage in Run(work / "runs" / "second").stages] == ["span", "upper", "lookup"]
    assert (work / "first.html").is_file()


def test_two_rounds(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's claims hold: March is scored again after April, its rows are not needed, its run stays as it is."""
    chat_model(work.parent / "models" / "my-chat-model")
    walk("two-rounds.md", monkeypatch)
    first, second = Run(work / "runs" / "march"), Run(work / "runs" / "april")
    assert [stage.name for stage in first.stages] == ["general", "march"]
    assert all(score is not None for score in second.scores.matrix[-1])
    assert second.scores.metrics == ["likelihood"] * 3
    assert (work / "support-adapter" / "adapter_config.json").is_file()
    assert (work / "support-model" / "model.safetensors").is_file()


def test_extending(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's methods and its metric are found by their names, and do what they say, on a first run's files."""
    few_files(work)
    walk("extending.md", monkeypatch)
    tether, loud, metric = (Run(work / "runs" / name) for name in ("tether", "loud", "metric"))
    assert [line.parts["tether"] > 0 for line in tether.stages[1].log[:2]] == [False, True]
    assert {line.kind for line in loud.stages[1].log} == {"task", "replay"}
    assert metric.scores.metrics == ["my_metrics:starts_right", "accuracy"]


def test_table(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's table has a row a method, of two seeds each."""
    few_files(work)
    walk("table.md", monkeypatch)
    lines = (work / "table.tex").read_text().splitlines()
    assert sum(line.startswith(f"{name} & 2 &") for line in lines for name in ("sequential", "derpp", "seekr")) == 3
    assert len((work / "table.csv").read_text().splitlines()) == 4
    assert (work / "table.html").is_file()


def test_a_page_that_gives_files_is_walked() -> None:
    """A block with a title is a file that a reader makes."""
    walked = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    titled = {page.stem for page in DOCS.glob("*.md") if any(title for _, title, _ in blocks(page))}
    assert titled | {"table"} == walked & {page.stem for page in DOCS.glob("*.md")}
