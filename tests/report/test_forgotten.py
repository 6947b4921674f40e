"""What a run forgot: the drop of each task, how sure it is, and the answers that were lost."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from fake_runs import write_run
from shown import cells

from seekr.cli.main import main
from seekr.errors import InputError
from seekr.report.check_run import examples_of, headline, kept_and_lost
from seekr.report.forgotten import Change, Lost, changes
from seekr.report.tables import print_scores
from seekr.runs.run import Run
from seekr.scoring.metrics import METRICS, row_scores


def answered(run: Path, cell: tuple[int, int], right: list[bool]) -> None:
    """Answers of a cell, and its score, of which each is right or wrong."""
    rows = [
        {"prompt": f"#{place}", "prediction": "yes" if one else "no", "references": ["yes"]}
        for place, one in enumerate(right)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "predictions" / f"{cell[0]}-{cell[1]}.jsonl").write_text(text)
    scores = json.loads((run / "scores.json").read_text())
    scores["matrix"][cell[0]][cell[1]] = 100 * sum(right) / len(right)
    (run / "scores.json").write_text(json.dumps(scores))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three tasks of twenty rows; the first falls from 18 right to 9, the second from 16 to 15."""
    folder = write_run(tmp_path / "run", tasks=("copy", "sort", "add"))
    then, now = np.arange(20) < 18, np.arange(20) < 8
    now[19] = True  # a row that was wrong before
    answered(folder, (0, 0), then.tolist())
    answered(folder, (2, 0), now.tolist())
    answered(folder, (1, 1), (np.arange(20) < 16).tolist())
    answered(folder, (2, 1), (np.arange(20) < 15).tolist())
    answered(folder, (2, 2), (np.arange(20) < 12).tolist())
    return folder


def test_drop_and_its_error_are_those_of_the_paired_rows(run):
    first, second, third = changes(Run(run))
    drops = 100.0 * (np.arange(20) < 18) - 100.0 * ((np.arange(20) < 8) | (np.arange(20) == 19))
    assert (first.before, first.now, first.drop) == (90, 45, 45)
    assert first.drop == pytest.approx(drops.mean())
    assert first.error == pytest.approx(drops.std(ddof=1) / np.sqrt(20))
    assert [row.prompt for row in first.lost] == [f"#{place}" for place in range(8, 18)]
    assert (first.lost[0].before, first.lost[0].now, first.lost[0].right) == ("yes", "no", ("yes",))
    assert (first.verdict, second.verdict, third.verdict) == ("forgotten", "held", "just learned")
    assert (second.drop, third.drop, third.lost) == (5, None, ())


@pytest.mark.parametrize(
    ("before", "now", "error", "verdict"),
    [
        (80, 80, 1.0, "held"),
        (0, 0, 0.0, "had nothing"),
        (0, 4, 1.0, "held"),
        (80, 90, 0.0, "held"),
        (80, 78.5, 1.0, "held"),
        (80, 77.5, 1.0, "slipped"),
        (80, 71, 1.0, "partly forgotten"),
        (80, 40, 1.0, "forgotten"),
        (80, 30, 30.0, "held"),
        (80, 79.5, None, "held"),
        (80, 78, None, "slipped"),
        (None, 30, None, "not scored"),
        (80, None, None, "not scored"),
    ],
)
def test_verdict_follows_share_and_chance(before, now, error, verdict):
    change = Change("a", "accuracy", before, now, error, ())
    assert change.verdict == verdict
    assert change.over(5) == (verdict in ("partly forgotten", "forgotten"))


def test_drop_within_chance_is_not_over_any_limit(run):
    assert Change("a", "accuracy", 50, 40, 6.0, ()).over(5) is False
    assert Change("a", "accuracy", 50, 40, 4.0, ()).over(5) is True
    assert Change("a", "accuracy", 50, 40, 4.0, ()).over(10) is False
    assert headline(changes(Run(run)), 50) == "none of 3 tasks lost more than 50 points"
    assert headline(changes(Run(run)), 5) == "1 of 3 tasks lost more than 5 points: copy 90 → 45"


def test_a_large_drop_that_chance_explains_is_not_denied():
    """The line said that no task had lost more than 5 points, above a table in which one had lost 17."""
    found = [Change("a", "accuracy", 83.3, 66.7, 16.7, ()), Change("b", "accuracy", 90, 45, 4.0, ())]
    assert headline(found[:1], 5) == "none of 1 task lost more than 5 points beyond chance; within chance: a 83 → 67"
    one = "1 of 2 tasks lost more than 5 points beyond chance: b 90 → 45; within chance: a 83 → 67"
    assert headline(found, 5) == one
    assert kept_and_lost(found) == "forgotten: b 90 → 45; held: a 83 → 67 (within chance)"


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (1, "a: 1 answer is worse than it was"),
        (2, "a: 2 answers are worse than they were"),
        (5, "a: 5 answers are worse than they were; 2 of them"),
    ],
)
def test_answers_that_are_not_shown_are_not_passed_over(lost: int, said: str) -> None:
    """Of four lost answers two stood below "4 answers are worse", and one lost answer "were"."""
    change = Change("a", "accuracy", 90.0, 45.0, 4.0, (Lost("q", ("x",), "x", "y"),) * lost)
    text = examples_of(change, 2).plain
    assert (text.splitlines()[0], text.count("asked")) == (said, min(lost, 2))


def test_a_large_drop_of_two_seeds_is_not_hidden_behind_held() -> None:
    """Two seeds that both lost, by 8 and by 38 points, were "held" on the page's first line, and no more."""
    found = Change("a", "accuracy", 100.0, 77.0, error=15.1, lost=())
    assert found.verdict == "held"
    assert kept_and_lost([found]) == "held: a 100 → 77 (within chance)"
    assert kept_and_lost([Change("a", "accuracy", 100.0, 96.0, 3.0, ())]) == "held: a"


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("sari",)])
def test_every_metric_that_is_a_mean_over_rows_has_an_error(run, metric):
    scores = json.loads((run / "scores.json").read_text())
    scores["metrics"][0] = metric
    for row in (0, 2):
        given = Run(run).answers(row, 0)
        texts = ([one.prediction for one in given], [one.references for one in given], [one.prompt for one in given])
        scores["matrix"][row][0] = fmean(row_scores(metric, *texts))
    (run / "scores.json").write_text(json.dumps(scores))
    assert changes(Run(run))[0].error is not None


def test_answers_that_are_not_those_that_were_scored_say_nothing_of_a_drop(run):
    """The drop had the error of other answers, beside scores that had none."""
    scores = json.loads((run / "scores.json").read_text())
    scores["matrix"][2][0] = 50.0
    (run / "scores.json").write_text(json.dumps(scores))
    first = changes(Run(run))[0]
    assert (first.drop, first.error, first.lost) == (40, None, ())


def test_answers_that_are_gone_leave_the_drop(run):
    (run / "predictions" / "0-0.jsonl").unlink()
    first = changes(Run(run))[0]
    assert (first.drop, first.error, first.lost, first.verdict) == (45, None, (), "forgotten")


def test_run_that_goes_on_is_compared_with_its_newest_scores(run):
    scores = json.loads((run / "scores.json").read_text())
    scores["matrix"][2] = [None] * 3
    (run / "scores.json").write_text(json.dumps(scores))
    answered(run, (1, 0), [place < 17 for place in range(20)])
    first, second, third = changes(Run(run))
    assert (first.drop, first.verdict) == (5, "held")
    assert (second.verdict, third.verdict) == ("just learned", "not scored")


def test_joint_run_has_nothing_before(tmp_path):
    with pytest.raises(InputError, match="joint learns all tasks at once"):
        changes(Run(write_run(tmp_path / "run", method="joint")))


def test_what_was_lost_comes_first_and_what_to_do_next_last(run, capsys):
    (run / "stages" / "02-add" / "model").mkdir()
    (run / "stages" / "02-add" / "model" / "model.safetensors").write_text("")
    print_scores(Run(run))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seekr 60.0 ± ")
    assert lines[0].endswith("; forgotten: copy 90 → 45; held: sort")
    todo = [line.split() for line in lines[-5:-1]]
    assert todo[0] == ["next", "seekr", "check", str(run)]
    assert [words[:3] for words in todo[1:]] == [["seekr", name, str(run)] for name in ("chat", "export", "report")]
    assert lines[-1].split() == ["model", str(run / "stages" / "02-add" / "model")]


def test_learn_and_check_judge_a_drop_alike(run, capsys):
    """A small drop beyond chance was "slipped" to one and "forgotten" to the other."""
    answered(run, (1, 1), [True] * 300)
    answered(run, (2, 1), [place >= 20 for place in range(300)])
    print_scores(Run(run))
    assert capsys.readouterr().out.splitlines()[0].endswith("; forgotten: copy 90 → 45; slipped: sort 100 → 93")
    main(["check", str(run)])
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    verdicts = [line[-1] for line in words if line[:1] in (["copy"], ["sort"])]
    assert verdicts == ["forgotten", "slipped"]


def test_scores_whose_answers_are_gone_are_named(run, capsys):
    """A change is then judged by a point, where it was by its error."""
    assert main(["check", str(run)]) == 3
    assert "no ±" not in capsys.readouterr().out
    file = run / "predictions" / "2-1.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:7]))
    assert main(["check", str(run)]) == 3
    assert "no ± for sort: the answers that were scored are not all in predictions/" in capsys.readouterr().out


def test_status_shows_the_scores(run, capsys):
    assert main(["status", str(run)]) == 0
    shown, scores = capsys.readouterr().out.partition("are measured")[2], Run(run).final
    assert cells(shown, "add")[1:] == [f"{scores[task]:.1f}" for task in ("copy", "sort", "add")]


def test_command_is_a_gate(run, tmp_path, capsys):
    assert main(["check", str(run), "--json", str(tmp_path / "found.json")]) == 3
    out = capsys.readouterr().out
    assert "1 of 3 tasks lost more than 5 points: copy 90 → 45" in out
    assert "copy: 10 answers are worse than they were" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["over"], found["max_drop"]) == (True, 5)
    assert [task["verdict"] for task in found["runs"][0]["tasks"]] == ["forgotten", "held", "just learned"]
    assert main(["check", str(run), "--max-drop", "45", "--examples", "0"]) == 0
    assert "none of 3 tasks lost more than 45 points" in capsys.readouterr().out


def test_command_says_what_is_wrong_in_one_line(run, tmp_path, capsys):
    (run / "scores.json").unlink()
    assert main(["check", str(run)]) == 2
    assert main(["check", str(tmp_path / "none")]) == 2
    assert main(["check", str(run), "--max-drop", "101"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "scores.json: missing, though answers are there" in lines[0]
    assert [line.split(":")[:2] for line in lines[1:]] == [["seekr", " error"]] * 3
    assert "nothing was scored yet" in lines[1]


@pytest.mark.parametrize("width", [40, 120])
def test_table_fits_any_terminal(run, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    main(["check", str(run), "--examples", "0"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["copy", "90.0", "45.0", "45.0"] in [row[:4] for row in rows]
