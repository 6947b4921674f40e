"""Progress goes to stderr: bars on a terminal, a line now and then elsewhere, nothing when turned off."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tqdm.auto
from rich.console import Console

from seekr import progress
from seekr.progress import all_tasks, bar, beginning


@pytest.fixture(autouse=True)
def _as_a_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEEKR_PROGRESS", raising=False)
    monkeypatch.delenv("RANK", raising=False)


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with bar("learning [a]", 8, done=2) as advance:
        for step in range(6):
            now[0] += 12
            advance(1, loss=1 / (step + 1))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "learning [a]: 5/8, loss 0.3333, 0:36, 0:36 left",
        "learning [a]: 8/8, loss 0.1667, 1:12",
        "learning [a]: 8/8, loss 0.1667, 1:12",
    ]


def test_a_short_part_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("scoring", 3) as advance:
        advance(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("variable", [("SEEKR_PROGRESS", "0"), ("RANK", "1")])
def test_turned_off_or_in_another_process_nothing_is_shown(
    variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(*variable)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    monkeypatch.setattr(progress, "WORTH_A_LINE", 0.0)
    with bar("scoring", 3) as advance:
        advance(3, loss=1.0)
    assert capsys.readouterr().err == ""


def test_an_unknown_total_and_hours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with bar("measuring") as advance:
        now[0] = 3723.0
        advance(4)
    assert capsys.readouterr().err.splitlines()[-1] == "measuring: 4, 1:02:03"


def test_an_error_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with bar("dividing", 2) as advance:
            advance(1 // 0)

    with pytest.raises(ZeroDivisionError):
        work()


def test_on_a_terminal_nested_bars_share_one_display_and_leave_stdout_alone() -> None:
    code = (
        "from seekr.progress import _terminal, bar\n"
        "with bar('outer part', 2) as outer:\n"
        "    for i in range(2):\n"
        "        with bar(f'inner [{i}]', 3) as inner:\n"
        "            for _ in range(3):\n"
        "                inner(1, loss=0.25)\n"
        "            _terminal._display.refresh()\n"  # not left to the clock
        "        outer(1); print('said', i)\n"
    )
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, env=environment, text=True
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert process.communicate()[0] == "said 0\nsaid 1\n"
    assert process.returncode == 0
    screen = shown.decode()
    assert all(text in screen for text in ("outer part", "inner [0]", "inner [1]", "loss 0.25", "3/3"))


def shown(part: progress._Part, width: int) -> str:
    """What a terminal so wide shows of a part."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(part)
    return console.file.getvalue().removesuffix("\n")


@pytest.fixture
def third_of_six(monkeypatch: pytest.MonkeyPatch) -> progress._Part:
    """A task in training, at 45 of 60 steps after 30 seconds, each of six tasks as large; two were done before."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tasks = progress._Tasks([0, 0, 5, 5, 5, 5])
    part = progress._Part("learning sort", 60, 0, progress._Place(tasks, 2))
    now[0] = 30.0
    part.advance(45, {"loss": 0.3125, "replay": 0.25, "attention": 0.0625})
    return part


def test_losses_give_way_first_then_the_bar(third_of_six: progress._Part) -> None:
    start = "learning sort (task 3 of 6)"
    assert shown(third_of_six, 50) == f"{start} 45/60 2:10 of all"
    narrow = shown(third_of_six, 60)
    assert "━" in narrow
    assert narrow.endswith(" 45/60 2:10 of all")
    assert shown(third_of_six, 66).rstrip().endswith("45/60 0:10 left, 2:10 of all")
    assert shown(third_of_six, 80).rstrip().endswith("45/60 0:30, 0:10 left, 2:10 of all")
    assert " 45/60 loss 0.3125 0:30, " in shown(third_of_six, 90)
    assert " 45/60 loss 0.3125 replay 0.25 attention 0.0625 0:30, " in shown(third_of_six, 140)
    assert shown(third_of_six, 43) == "learning s… (task 3 of 6) 45/60 2:10 of all"


@pytest.mark.parametrize("width", range(44, 160))
def test_progress_is_one_line_however_wide_the_terminal(third_of_six: progress._Part, width: int) -> None:
    line = shown(third_of_six, width)
    assert "\n" not in line
    assert len(line) <= width
    assert "(task 3 of 6)" in line
    assert "45/60" in line
    assert "2:10 of all" in line


def test_time_of_all_counts_from_where_this_start_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that an earlier start left at half is half a task; the second is twice as large."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tasks = progress._Tasks([10, 20])
    first = progress._Part("a", 8, 4, progress._Place(tasks, 0))
    assert first.left() == []
    now[0] = 6.0
    first.advance(2, {})
    assert first.left() == ["0:06 left", "0:54 of all"]
    now[0] = 12.0
    second = progress._Part("b", 8, 0, progress._Place(tasks, 1))
    now[0] = 36.0
    second.advance(4, {})
    assert second.left() == ["0:24 left"]  # the last one says no more


def test_plain_lines_say_which_task_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with all_tasks([1.0, 1.0]), bar("learning a", 2, place=0) as advance:
        advance(1)
    with bar("learning b", 2, place=0) as advance:
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["learning a (task 1 of 2)", "learning b"]


def test_the_beginning_ends_with_the_first_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WORTH_A_LINE", 0.0)
    with beginning("loading"):
        with bar("reading", 1):
            print("inside", file=sys.stderr)
        print("after", file=sys.stderr)
    words = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert words == ["loading", "inside", "reading", "after"]
    with beginning("loading"):
        pass
    assert capsys.readouterr().err == "loading: 0:00\n"


def test_notebooks_get_the_bars_of_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[object] = []

    class StandIn(tqdm.auto.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            told.append((self.desc, self.total, self.n, n, self.postfix))
            return super().update(n)

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(tqdm.auto, "tqdm", StandIn)
    with bar("learning a", 8, done=2) as advance:
        advance(3, loss=0.25)
    assert told == [("learning a", 8, 2, 3, "loss 0.25")]


def test_a_command_says_within_two_seconds_what_it_waits_for(tmp_path: Path) -> None:
    """Before any library that takes long is loaded: the import of the first one ends the process here."""
    code = (
        "import sys\n"
        "class First:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in ('torch', 'transformers', 'datasets', 'peft'):\n"
        "            sys.exit(7)\n"
        "sys.meta_path.insert(0, First())\n"
        "from seekr.cli.main import main\n"
        "main(['learn', 'c.yaml'])\n"
    )
    main, terminal = pty.openpty()
    (tmp_path / "c.yaml").write_text("model: m\ntasks: [{name: a, train: a.json}]\noutput_dir: x\n")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "50"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=terminal, env=environment, cwd=tmp_path)
    os.close(terminal)
    assert process.wait(timeout=60) == 7
    assert b"loading torch and transformers" in os.read(main, 65536)
    os.close(main)
