"""Names and texts of somebody else's reach the terminal as they look, and do nothing to it."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

import seekr
from seekr import InputError
from seekr.cli.library_warnings import leave_out_advice
from seekr.cli.main import main
from seekr.disk.files import write_json
from seekr.errors import hand_over, say, show_text, visible
from seekr.progress import Terminal, Text, bar
from seekr.runs.general_tasks import GENERAL_FILE
from seekr.runs.grafted import Grafted, add_grafted
from seekr.use.chat import _Shown

STEERS = "\x1b[2J\x1b[38;5;201m\u202e\x9b1m\x07"
SHOWN = "\\u001b[2J\\u001b[38;5;201m\\u202e\\u009b1m"
COLOURS = re.compile(r"\x1b\[(?!38;5;201)[0-9;]*m")
NAMES = {"a", "b", "t", "acc"}
TEXTS = {"prompt", "prediction", "references", "compared", "generated", "answer"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder whose name, files and rows all hold what steers a terminal."""
    folder = tmp_path_factory.mktemp("data") / f"task{STEERS}"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"prompt": f"{STEERS}{i} =", "answer": f"{i % 3}{STEERS}"} for i in range(8)]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as somebody might hand it over: no manifest, and names and texts of another kind in every file."""
    folder = tmp_path_factory.mktemp("received")
    rows = [{"prompt": f"{i} =", "answer": f"x{i % 3}"} for i in range(12)]
    whole = seekr.learn(
        model=tiny_model_folder,
        tasks=[seekr.Task(name, train=rows, test=rows[:3], max_new_tokens=3) for name in "ab"],
        output_dir=folder / "run",
        method={"name": "seekr", "replay_ratio": 0.2, "query_budget": 4, "attention_weight": 10},
        training={"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 1},
    ).folder
    general = {"stage": None, "metric": "acc", "score": 0.5, "error": None, "rows": 2, "version": "1", "task": "t"}
    write_json(whole / GENERAL_FILE, [general, general | {"stage": "b"}])
    add_grafted(whole, [Grafted("a", "a", "b", "all", 8, (), 3, 50.0, 40.0, 45.0, None)], ["a", "b"])
    for path in whole.rglob("manifest.json"):
        path.unlink()
    for path in [*whole.rglob("*.json"), *whole.rglob("*.jsonl")]:
        if path.parent.name != "model":
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            path.write_text("".join(f"{json.dumps(steering(json.loads(line)))}\n" for line in lines))
    for path in sorted((whole / "stages").iterdir()):
        path.rename(path.with_name(f"{path.name}{STEERS}"))
    (whole / "working" / f"02-c{STEERS}" / "checkpoint-1").mkdir(parents=True)
    return Path(shutil.move(whole, folder / f"run{STEERS}"))


def steering(value: Any, key: str = "") -> Any:
    """The same value with STEERS in its names of tasks and its texts."""
    if isinstance(value, dict):
        return {(f"{name}{STEERS}" if name in NAMES else name): steering(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [steering(one, key) for one in value]
    return f"{value}{STEERS}" if isinstance(value, str) and (key in TEXTS or value in NAMES) else value


def given(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command shows; it is nothing that steers a terminal but seekr's own colours."""
    status = main(words)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert status in (0, 1, 2, 3)
    assert visible(COLOURS.sub("", shown)) == COLOURS.sub("", shown), words
    return shown


@pytest.fixture(params=["plain", "rich"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if request.param == "rich":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    return str(request.param)


RUNS = (
    "status RUN",
    "status ABOVE",
    "check RUN",
    "check RUN --examples 3",
    "heads RUN",
    "memory RUN",
    "memory RUN --search x",
    "compare RUN",
    "report RUN --output PAGE",
    "verify RUN",
    "evaluate RUN",
    "export RUN --output OUT",
    "export RUN --output OUT --dry-run",
    "chat RUN",
    "graft RUN",
    "score RUN --task a=TEST",
    "learn RUN",
    "plan RUN",
    "status RUN/missing",
    "export RUN --output OUT --stage STEERS",
    "memory RUN --remove STEERS/1",
    "learn STEERS",
    "STEERS",
)


@pytest.mark.parametrize("command", RUNS)
def test_a_run_of_somebody_else_does_nothing_to_the_terminal(
    command: str,
    how: str,
    run: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    places = {"ABOVE": run.parent, "RUN": run, "PAGE": tmp_path / "page.html", "OUT": tmp_path / f"out{STEERS}"}
    places |= {"TEST": texts / "test.json", "STEERS": STEERS}
    for name, place in places.items():
        command = re.sub(rf"\b{name}\b", lambda _, place=place: str(place).replace(" ", "\0"), command)
    shown = given([word.replace("\0", " ") for word in command.split(" ")], capsys)
    assert "[38;5;201m" in shown or command.startswith("chat")


@pytest.mark.parametrize("command", ["check", "show"])
def test_rows_of_somebody_else_do_nothing_to_the_terminal(
    command: str, how: str, texts: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tasks", command, str(texts), "--tokenizer", str(tiny_model_folder), "--max-length", "50"]
    shown = given(words, capsys)
    assert "\\u001b[2J" in shown
    if command == "show" and how == "rich":
        assert "\x1b[1;32m" in shown  # seekr's own colours


def test_what_a_pipe_takes_as_data_is_exact(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["status", str(run), "--json"],
        ["compare", str(run), "--json", "-"],
        ["compare", str(run), "--csv", "-"],
    ):
        assert main(words) == 0
        assert "\u202e" in capsys.readouterr().out
    assert main(["status", str(run), "--json", str(tmp_path / "status.json")]) == 0
    assert STEERS in json.loads((tmp_path / "status.json").read_text())["runs"][0]["run"]


def test_data_on_a_terminal_is_shown_and_is_the_same_json(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    hand_over(json.dumps({"name": STEERS}, ensure_ascii=False))
    assert "\u202e" not in terminal.getvalue()
    assert json.loads(terminal.getvalue()) == {"name": STEERS}


def test_line_breaks_tabs_and_all_that_looks_like_something_stay() -> None:
    for text in ("a\tb\nc", "Grüße, שלום, مرحبا, 你好 🙂", "e\u0301 \u200d \xa0 \ufeff"):
        assert visible(text) == text


@pytest.mark.parametrize("code", [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), 0x2066, 0xDC9B])
def test_every_character_that_steers_is_shown(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_text(f"<{chr(code)}>")
    say(f"<{chr(code)}>")
    Terminal().print(f"<{chr(code)}>", markup=False, highlight=False)
    captured = capsys.readouterr()
    assert captured.out.startswith(f"<\\u{code:04x}>\n")
    assert captured.err == f"seekr: <\\u{code:04x}>\n"
    assert chr(code) not in captured.out
    assert f"\\u{code:04x}" in str(InputError(chr(code)))


def test_a_table_keeps_its_columns() -> None:
    out = Terminal(file=io.StringIO(), width=60, force_terminal=True, color_system="truecolor", highlight=False)
    table = Table("name", "number", title=f"title{STEERS}")
    table.add_row(f"one{STEERS}", "1")
    table.add_row(Text("two", style="red"), "2")
    out.print(table)
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    lines = COLOURS.sub("", shown).splitlines()
    assert visible(COLOURS.sub("", shown)) == COLOURS.sub("", shown)
    assert len({len(line) for line in lines if line.strip()[:1] in "┏┃┡│└"}) == 1
    assert "\x1b[31mtwo" in shown


def test_a_bar_shows_the_name_of_its_task(how: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("SEEKR_PROGRESS", raising=False)
    monkeypatch.setattr("seekr.progress.WORTH_A_LINE", 0.0)
    with bar(f"scoring {STEERS}", 2) as advance:
        advance(2)
    shown = COLOURS.sub("", capsys.readouterr().err)
    assert SHOWN in shown
    assert visible(shown) == shown


def test_what_libraries_say_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    leave_out_advice()
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("somebody")
    logger.addHandler(handler)
    try:
        logger.warning("in %s", STEERS)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.stderr.write(warnings.formatwarning(f"of {STEERS}", UserWarning, "file.py", 1))
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert shown.count(SHOWN) == 2
    assert visible(shown) == shown


class _Words:
    """A tokenizer of whole words, as far as a streamer needs one."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"{STEERS} word\n" for _ in ids)


def test_what_a_model_answers_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    shown: Any = _Shown(_Words(), skip_prompt=False)  # type: ignore[arg-type]
    shown.put(torch.tensor([1, 2]))
    shown.end()
    assert STEERS in shown.text  # what is asked next has what was answered
    out = capsys.readouterr().out
    assert SHOWN in out
    assert visible(out) == out
