"""Runs of many tasks: what grows with their square is drawn as one picture, and who is left out is said."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_runs import Matrix, write_run
from rich.console import Console

from seekr.cli.main import main
from seekr.report.charts import LEVELS
from seekr.report.check_run import by_verdict, renderables
from seekr.report.folding import LINES, MANY, few, stretches, telling
from seekr.report.forgotten import Change
from seekr.report.page import write_report
from seekr.report.run_view import matrix_rows
from seekr.report.score_map import score_map
from seekr.report.side_by_side import seeds_table
from seekr.report.summary import summarize
from seekr.report.terminal import score_table
from seekr.runs.run import Run

WORST = (7, 11, 13, 29, 30, 41)


def many(folder: Path, count: int, **settings: object) -> Run:
    """All tasks so far are scored after each; those of WORST are lost whole, of the others a little."""
    matrix: Matrix = [[None] * count for _ in range(count)]
    for row in range(count):
        for column in range(row + 1):
            lost = 60.0 if column in WORST else 0.1
            matrix[row][column] = 90.0 - lost * (row - column) / count - column / 10
    return Run(write_run(folder, tasks=[f"t{place}" for place in range(count)], matrix=matrix, steps=2, **settings))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    root = tmp_path_factory.mktemp("many")
    return {count: many(root / str(count), count) for count in (50, 100)}


def test_first_last_and_worst_are_shown(runs: dict[int, Run], tmp_path: Path) -> None:
    assert telling([runs[50]], MANY) == sorted({0, 1, 2, *WORST, 47, 48, 49})
    assert telling([runs[50]], 50) == list(range(50))
    joint = Run(write_run(tmp_path / "joint", method="joint", tasks=[f"t{place}" for place in range(50)], steps=1))
    assert telling([joint, runs[50]], MANY) == telling([runs[50]], MANY)
    scores = np.array(joint.scores.matrix[-1], dtype=float)
    assert set(telling([joint], MANY)) - {0, 1, 2, 47, 48, 49} == {3 + place for place in np.argsort(scores[3:47])[:6]}


def test_of_a_run_that_goes_on_the_newest_tasks_are_shown(tmp_path: Path) -> None:
    run = many(tmp_path / "run", 50)
    scores = json.loads((run.folder / "scores.json").read_text())
    (run.folder / "scores.json").write_text(json.dumps(scores | {"matrix": scores["matrix"][:30] + [[None] * 50] * 20}))
    assert telling([run], MANY)[-3:] == [27, 28, 29]
    assert {7, 11, 13} < set(telling([run], MANY))


def test_the_map_has_every_score_in_its_shade(runs: dict[int, Run]) -> None:
    """Read back from the drawing, each cell is covered once, by the shade that is nearest its score."""
    count = 50
    rows = list(matrix_rows(summarize([runs[count]])[0]))
    drawing = score_map(rows, count, "a label")
    found = np.full((count, count), -1)
    for shade, width, path in re.findall(r'class="l(\d+)" stroke-width="(\d+)" d="(.*?)"', drawing):
        side = int(width)
        for x, y, length in re.findall(r"M(\d+) ([\d.]+)h(\d+)", path):
            row, first = round((float(y) - 18) / side - 0.5), (int(x) - 34) // side
            cells = found[row, first : first + int(length) // side]
            assert (cells == -1).all()
            cells[:] = int(shade)
    scores = np.array(runs[count].scores.matrix, dtype=float)
    expected = np.where(np.isnan(scores), -1, np.rint(np.nan_to_num(scores) / 100 * (LEVELS - 1)))
    assert (found == expected).all()


def test_elements_of_the_page_and_lines_of_status_do_not_grow_with_the_square(
    runs: dict[int, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elements, lines = {}, {}
    for count, run in runs.items():
        text = write_report([run.folder], tmp_path / f"{count}.html").read_text()
        elements[count] = len(re.findall(r"<\w", text))
        assert text.count("</svg>\n<figcaption>seekr · seed 0: down after which task") == 1
        assert f"Of {count} tasks the first and last three" in " ".join(text.split())
        assert f"Of {count} stages those of the first" in text
        assert all(f'<th scope="row">t{place}</th><td>{place + 1}</td>' in text for place in range(count))
        capsys.readouterr()
        assert main(["status", str(run.folder)]) == 0
        lines[count] = capsys.readouterr().out.splitlines()
    assert elements[100] - elements[50] < 50 * 40  # 50 settings, losses and rows; the matrix has 3,775 more scores
    assert len(lines[50]) == len(lines[100]) < 40
    assert any("… 44 tasks" in line for line in lines[50])


def test_check_says_what_was_lost_and_counts_the_others(
    runs: dict[int, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """200 tasks were 2,100 lines; what the gate is about comes first, the largest drop before the others."""
    for run in runs.values():
        assert main(["check", str(run.folder), "--examples", "0"]) == 3
        out = capsys.readouterr().out.splitlines()
        assert len(out) < 40
        lost = [line.split()[0] for line in out if line.rstrip().endswith("forgotten")]
        assert lost == sorted(lost, key=lambda name: int(name[1:]))  # the earlier one lost more
        assert set(lost) <= {f"t{place}" for place in WORST}
        whole = main(["check", str(run.folder), "--all"]), capsys.readouterr().out.splitlines()
        assert whole[0] == 3
        assert sum(line.lstrip().startswith("t") for line in whole[1]) >= len(run.scores.tasks)
        assert main(["check", str(run.folder), "--json"]) == 3
        assert len(json.loads(capsys.readouterr().out)["runs"][0]["tasks"]) == len(run.scores.tasks)


def test_of_more_drops_than_lines_the_largest_are_shown_and_no_task_is_lost() -> None:
    found = [Change(f"t{number}", "accuracy", 90.0, float(number), 1.0, ()) for number in range(60)]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in renderables(found[::-1], most=5, examples=2, whole=False):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.findall(r"^ ?(t\d+) ", text, re.MULTILINE) == [f"t{number}" for number in range(LINES)]
    others = {verdict: int(count) for count, verdict in re.findall(r"… (\d+) tasks? +(\w+ ?\w+)", text)}
    assert sum(others.values()) + LINES == len(found)
    assert "t0 90 → 0, t1 90 → 1, t2 90 → 2, t3 90 → 3, t4 90 → 4, and 55 more" in " ".join(text.split())


def test_compare_shows_what_tells_most_and_hands_over_all(
    runs: dict[int, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"it.{name}" for name in ("csv", "json", "latex", "markdown")}
    words = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    assert main(["compare", str(runs[50].folder), "--sort", "t20", *words]) == 0
    out = capsys.readouterr().out
    shown = sorted({0, 1, 2, *WORST, 20, 47, 48, 49})
    assert [int(place) for place in re.findall(r" t(\d+) ", out)] == shown
    assert "37 of 50 tasks have no column here" in " ".join(out.split())
    for name in ("latex", "markdown"):
        assert [int(place) for place in re.findall(r" t(\d+) ", files[name].read_text())] == shown
    (row,) = json.loads(files["json"].read_text())["rows"]
    assert len(row["tasks"]) == files["csv"].read_text().partition("\n")[0].count("_mean") - len(row["measures"]) == 50
    main(["compare", str(runs[50].folder), "--all", "--latex", "-"])
    assert len(re.findall(r" t\d+ ", capsys.readouterr().out)) == 50


def test_seeds_of_many_tasks_are_few_lines(tmp_path: Path) -> None:
    seeds = [many(tmp_path / f"seed-{seed}", 50, seed=seed) for seed in (0, 1)]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(seeds_table(seeds))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert sorted(map(int, re.findall(r"│ t(\d+) ", text))) == telling(seeds, LINES)
    assert "38 tasks between are in scores.json" in " ".join(text.split())


def test_answers_are_not_listed_once_a_score(
    runs: dict[int, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of all answers for each score made a page of 200 tasks take as many steps as their fourth power."""
    listed, cells = [], Run.cells
    assert isinstance(cells, property)
    monkeypatch.setattr(Run, "cells", property(lambda run: listed.append(run) or cells.fget(run)))  # type: ignore[misc]
    write_report([runs[50].folder], tmp_path / "page.html")
    assert len(listed) <= 2


@pytest.mark.parametrize("width", [50, 80, 160])
def test_the_table_says_what_it_leaves_out(runs: dict[int, Run], width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(score_table(runs[50]))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "38 tasks between are in scores.json" in text
    assert all(f"{runs[50].final[f't{place}']:.1f}" in text for place in WORST)
    assert width == 160 or "42 t41" in text  # its number in the run, not in the table


@pytest.mark.parametrize(
    "states",
    [["done"] * 30 + ["stopped"] + ["waiting"] * 9, ["a", "b"] * 15, ["done"] * LINES, ["done"] * 28, []],
)
def test_stretches_leave_nothing_out(states: Sequence[str]) -> None:
    lines = list(stretches(states))
    assert [place for first, length in lines for place in range(first, first + length)] == list(range(len(states)))
    assert all(len(set(states[first : first + length])) == 1 for first, length in lines)
    assert (len(lines) == len(states)) is (len(states) <= LINES or "b" in states)


def test_long_lists_of_names_are_counted() -> None:
    assert few(list("abc")) == list("abc")
    assert few([str(number) for number in range(30)]) == ["0", "1", "2", "3", "4", "and 25 more"]
    lost = [Change(f"t{number}", "accuracy", 90.0, float(number), 1.0, ()) for number in range(40)]
    assert by_verdict(lost[::-1])["forgotten"] == [*(f"t{number} 90 → {number}" for number in range(5)), "and 35 more"]
