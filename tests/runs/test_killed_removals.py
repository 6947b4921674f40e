"""A removal of kept rows that is killed: nothing was changed, or whoever comes next does the rest, and no more."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_states import states_while
from small_runs import SEEKR, Stop, StopAt, digests

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.runs import exchange
from seekr.runs.exchange import is_unsettled, settle
from seekr.runs.execute import run_request
from seekr.runs.extend import extend
from seekr.runs.prepare import Request, prepare
from seekr.runs.seeds import run_seeds, seed_requests
from seekr.runs.take_back import answers_with, kept_rows, matching
from seekr.runs.verify import verify

KEY = "07" * 32
TEXT = " 0="


@pytest.fixture(scope="module")
def learned(
    request: pytest.FixtureRequest, learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    kind = getattr(request, "param", "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEKR_KEY", KEY)
        method = SEEKR | {"replay_ratio": 0.5}
        run = learn(tmp_path_factory.mktemp(kind) / "run", "ab", method=method, encrypt=kind == "encrypted").folder
        if kind == "stopped":
            with pytest.raises(Stop):
                learn(run, "abc", method=method, callbacks=[StopAt(0, 3)])
            assert list(run.glob("working/*/checkpoint-*"))
        return run


@pytest.fixture(autouse=True)
def _same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key, and nonces that do not change, so that what is encrypted can be compared; a kill needs no fsync."""
    monkeypatch.setenv("SEEKR_KEY", KEY)
    monkeypatch.setattr("os.urandom", bytes)
    monkeypatch.setattr("os.fsync", lambda _: None)


def content(run: Path) -> dict[str, str]:
    files = {name: digest for name, digest in digests(run, "**/*").items() if name != ".lock"}
    return files | {str(path.relative_to(run)): "folder" for path in run.rglob("*") if path.is_dir()}


def holds(folder: Path, *texts: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(text in path.read_bytes() for text in texts)]


@pytest.fixture
def stopped(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of which the removal of TEXT was killed once it was decided, before anything was put in place."""
    run = Path(shutil.copytree(learned, tmp_path / "runs" / "run"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_finish", killed)
        assert main(["memory", str(run), "--remove-matching", TEXT]) == 130
    return run


@pytest.mark.parametrize(
    ("learned", "by"),
    [
        ("plain", "text"),
        ("encrypted", "name"),
        ("stopped", "name"),
        pytest.param("plain", "name", marks=pytest.mark.slow),
        pytest.param("encrypted", "text", marks=pytest.mark.slow),
    ],
    indirect=["learned"],
)
def test_a_removal_killed_before_any_of_its_writes_is_finished_and_takes_no_second_row(
    by: str, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(learned, tmp_path / "whole" / "run"))
    rows, before = kept_rows(Run(run)), content(run)
    gone = matching(Run(run), TEXT) if by == "text" else rows[:1]
    assert by == "name" or {row.task for row in gone} == {"a", "b"}
    assert len(answers_with(Run(run), TEXT)) > 1
    memories = {stage.name: stage.memory for stage in Run(run).stages}
    quotes = [memories[row.task].encoded(row.number).input_ids.tobytes() for row in gone]
    quotes += [TEXT.encode()] if by == "text" else []
    encrypted = memories["a"].encrypted
    assert bool(holds(run, *quotes)) != encrypted
    what = ["--remove", "a/0"] if by == "name" else ["--remove-matching", TEXT]
    states = states_while(lambda: main(["memory", str(run), *what]), run, tmp_path / "states")
    whole = content(run)
    assert [row.text for row in kept_rows(Run(run))] == [row.text for row in rows if row not in gone]
    assert not holds(run, *quotes)
    unsettled = [is_unsettled(state) for state in states]
    assert sum(unsettled) > 5
    assert unsettled == sorted(unsettled)
    for state, begun in zip(states, unsettled, strict=True):
        assert not [path for place in state.glob(".removing*") for path in holds(place, *quotes)]
        if begun:
            other = Path(shutil.copytree(state, state.parent / "other" / "run"))
            with monkeypatch.context() as patch:
                patch.delenv("SEEKR_KEY")
                settle(other)
            assert content(other) == whole
        else:
            there = content(state).items()
            assert {name: digest for name, digest in there if not name.lstrip(".").startswith("removing")} == before
        capsys.readouterr()
        assert main(["memory", str(state), *what]) == 0
        assert content(state) == whole
        assert f"removed: {len(gone)} kept rows" in "".join(capsys.readouterr())
    assert not [finding for finding in verify(Run(states[-1])) if finding.fault]


def test_one_that_is_killed_again_while_it_is_finished_is_finished(stopped: Path, tmp_path: Path) -> None:
    states = states_while(lambda: settle(stopped), stopped, tmp_path / "states")
    whole = content(stopped)
    assert len(states) > 5
    for state in states:
        settle(state)
        assert content(state) == whole


@pytest.mark.parametrize("command", ["evaluate", "graft", "learn", "learn --from", "memory --remove-matching x"])
def test_every_command_that_writes_the_run_finishes_the_removal_first_and_says_so(
    command: str, stopped: Path, learned: Path, learn: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves what it leaves of a run from which the same was taken back without a stop."""
    whole = Path(shutil.copytree(learned, stopped.parents[1] / "others" / "run"))
    assert main(["memory", str(whole), "--remove-matching", TEXT]) == 0
    capsys.readouterr()

    def give(run: Path) -> dict[str, str]:
        if command == "learn":
            learn(run, "ab", method=SEEKR | {"replay_ratio": 0.5})
        elif command == "learn --from":
            run_request(extend(run, "c=" + str(Run(run).config.tasks[0]["train"]), run.parent / "next"))
            assert Run(run.parent / "next").stages[0].memory.about == Run(run).stages[0].memory.about
        else:
            word, *more = command.split()
            assert main([word, str(run), *more]) == 0
        return {name: digest for name, digest in content(run).items() if name != "run.json"}

    left = give(stopped)
    assert "that was stopped is finished; removed: 2 kept rows" in capsys.readouterr().err
    assert left == give(whole)
    assert "is finished" not in capsys.readouterr().err


def test_what_only_looks_at_the_run_names_the_removal_that_is_not_finished(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(stopped)
    assert main(["verify", str(stopped)]) == 3
    assert capsys.readouterr().out.count(exchange.STOPPED) == 1
    for words in (["status"], ["memory", "--search", "x"], ["report", "--output", str(stopped.parent / "page.html")]):
        assert main([words[0], str(stopped), *words[1:]]) == 0
        assert capsys.readouterr().err.count(exchange.STOPPED) == 1
    with pytest.raises(InputError, match="was stopped before its end"):
        prepare(Request(Run(stopped).config, weights=False))
    with pytest.raises(InputError, match="was stopped before its end"):
        prepare(extend(stopped, "c=" + str(Run(stopped).config.tasks[0]["train"]), stopped.parent / "next"))
    assert content(stopped) == before


def test_removals_of_all_seeds_are_finished_before_any_is_learned(stopped: Path) -> None:
    root = stopped.parent
    stopped.rename(root / "seed-0")
    config = Run(root / "seed-0").config.model_copy(update={"output_dir": str(root), "seeds": [0]})
    run_seeds(seed_requests(Request(config)))
    assert not is_unsettled(root / "seed-0")


def test_a_row_is_not_removed_by_a_name_of_before_the_removal_that_is_finished_first(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", str(stopped), "--remove", "a/1"]) == 2
    assert "--remove a/1: not done" in capsys.readouterr().err
    assert not is_unsettled(stopped)
    assert len(kept_rows(Run(stopped))) == 12
    assert main(["memory", str(stopped), "--remove", "a/1"]) == 0
    assert len(kept_rows(Run(stopped))) == 11


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 1, "answers": 1}', '{"rows": [], "answers": {}}'])
def test_a_marker_that_no_removal_wrote_is_one_line(
    text: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / ".removing.json").write_text(text)
    before = content(stopped)
    capsys.readouterr()
    assert main(["memory", str(stopped), "--remove", "a/1"]) in (1, 2)
    assert [line for line in capsys.readouterr().err.splitlines() if ".removing.json: " in line]
    assert content(stopped) == before


@pytest.mark.parametrize("link", ["stages/00-a/memory", ".removing/predictions", ".removing"])
def test_a_link_in_what_is_put_in_place_is_refused(
    link: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = (stopped / link).rename(tmp_path / "outside")
    (stopped / link).symlink_to(outside)
    before = content(outside)
    assert settle_by_command(stopped) == 2
    assert f"{stopped / link}: is a link" in capsys.readouterr().err
    assert content(outside) == before


def settle_by_command(run: Path) -> int:
    return main(["memory", str(run), "--remove-matching", TEXT])
