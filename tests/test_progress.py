"""Progress goes to stderr: bars on a terminal, a line now and then elsewhere, nothing when turned off."""

import os
import pty
import subprocess
import sys
import time

import pytest

from seekr import progress
from seekr.progress import bar


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
