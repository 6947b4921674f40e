"""Runs in one table: which are one row, what its numbers are, and how it looks on a terminal and in a file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import write_run, write_scores
from rich.console import Console, RenderableType

from seekr.cli.main import main
from seekr.errors import InputError
from seekr.report.comparison import HEADINGS, common_name, compare, sorted_by
from seekr.report.exports import as_json_text, csv_text, latex_text, markdown_text
from seekr.report.side_by_side import comparison_table, seeds_table
from seekr.runs.run import Run

TASKS = ("copy", "sort", "add")
LONG = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")


def printed(table: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def run(folder: Path, **settings: Any) -> Path:
    return write_run(folder, **{"steps": 2, **settings})


def set_task(folder: Path, task: str, **settings: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    for given in record["config"]["tasks"]:
        if given["name"] == task:
            given |= settings
    (folder / "run.json").write_text(json.dumps(record))


def test_numbers_are_those_of_numpy_and_unrounded_in_csv(tmp_path: Path) -> None:
    folders = [run(tmp_path / "x" / f"seed-{seed}", seed=seed) for seed in (0, 1, 10, 2)]
    run(tmp_path / "alone", method="replay", seed=4)
    comparison = compare([tmp_path / "x", tmp_path / "alone"])
    row, alone = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    assert (row["run"], row["seeds"], row["seed_list"]) == (str(tmp_path / "x"), "4", "0 1 2 10")
    every = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    for name in ("overall_performance", "backward_transfer", "forgetting", *TASKS):
        column = [it["matrix"][-1][TASKS.index(name)] if name in TASKS else it[name] for it in every]
        assert float(row[f"{name}_mean"]) == pytest.approx(np.mean(column), rel=1e-12)
        assert float(row[f"{name}_sd"]) == pytest.approx(np.std(column, ddof=1), rel=1e-12)
        assert float(row[f"{name}_ci95"]) == pytest.approx(3.182 * np.std(column, ddof=1) / 2, rel=1e-3)
        assert alone[f"{name}_sd"] == alone[f"{name}_ci95"] == ""
    score = json.loads((tmp_path / "alone" / "scores.json").read_text())["overall_performance"]
    assert float(alone["overall_performance_mean"]) == score  # every digit
    assert "forward_transfer_mean" not in row
    assert not comparison.notes


def test_forward_transfer_has_a_column_where_a_run_has_it(tmp_path: Path) -> None:
    run(tmp_path / "x")
    content = json.loads((tmp_path / "x" / "scores.json").read_text())
    content["base"] = [1.0, 2.0, 3.0]
    content["matrix"][0][1], content["matrix"][1][2] = 12.0, 23.0
    (tmp_path / "x" / "scores.json").write_text(json.dumps(content))
    run(tmp_path / "y", method="replay")
    comparison = compare([tmp_path])
    assert "forward_transfer" in comparison.measures
    x, y = comparison.rows
    assert x.measure("forward_transfer").mean == pytest.approx(15.0)  # type: ignore[union-attr]
    assert y.measure("forward_transfer") is None


def test_runs_that_differ_by_seed_only_are_one_row(tmp_path: Path) -> None:
    """Also in folders of other names, and where the seed drew the rows, as in demos of several seeds."""
    for seed in (10, 11):
        home = tmp_path / "demos" / f"seed-{seed}"
        for method in ("replay", "seekr"):
            folder = run(home / method, method=method, seed=seed)
            for task in TASKS:
                set_task(folder, task, train=f"{home}/data/seed-{seed}/{task}/train.json")
    rows = compare([tmp_path / "demos"]).rows
    assert [(row.name, row.method, row.seeds) for row in rows] == [
        (f"{tmp_path}/demos/seed-*/replay", "replay", (10, 11)),
        (f"{tmp_path}/demos/seed-*/seekr", "seekr", (10, 11)),
    ]
    other = run(tmp_path / "a" / "one", seed=1)
    run(tmp_path / "a" / "two", seed=2)
    assert [row.seeds for row in compare([tmp_path / "a"]).rows] == [(1, 2)]
    set_task(other, "sort", metric="accuracy", learn=True)  # defaults that are spelt out, and rows that no run uses
    set_task(other, "sort", eval="/elsewhere/eval.json")
    assert [row.seeds for row in compare([tmp_path / "a"]).rows] == [(1, 2)]
    set_task(other, "sort", train_limit=10)
    assert [row.seeds for row in compare([tmp_path / "a"]).rows] == [(1,), (2,)]


def test_a_path_with_the_number_of_another_seed_is_another_path(tmp_path: Path) -> None:
    for seed in (1, 2):
        set_task(run(tmp_path / f"r{seed}", seed=seed), "sort", train="/data/seed-1/sort.json")
    assert [row.seeds for row in compare([tmp_path]).rows] == [(1,), (2,)]


def test_a_seed_is_counted_once(tmp_path: Path) -> None:
    run(tmp_path / "x" / "seed-0", seed=0)
    run(tmp_path / "x" / "seed-1", seed=1)
    run(tmp_path / "copy", seed=1)
    comparison = compare([tmp_path / "x", tmp_path / "copy", tmp_path / "x" / "seed-0"])
    assert [(row.name, row.seeds) for row in comparison.rows] == [
        (str(tmp_path / "x"), (0, 1)),
        (str(tmp_path / "copy"), (1,)),
    ]
    (note,) = comparison.notes
    assert note.startswith(f"{tmp_path / 'copy'}: its settings and seed are another run's too")


def test_runs_that_are_not_done_are_named_and_not_counted(tmp_path: Path) -> None:
    done, part, unscored = (run(tmp_path / "x" / f"seed-{seed}", seed=seed) for seed in (0, 1, 2))
    (part / "stages" / "02-add").rename(tmp_path / "gone")
    write_scores(unscored, TASKS, [[1.0, None, None], [None, 1.0, None], [None, 1.0, 1.0]])
    run(tmp_path / "only", method="replay")
    (tmp_path / "only" / "scores.json").unlink()
    comparison = compare([tmp_path / "x", tmp_path / "only"])
    first, only = comparison.rows
    assert [it.folder for it in first.runs] == [done]
    assert only.runs == ()
    assert comparison.notes == (
        f"{part}: not counted, 2 of its 3 tasks are learned",
        f"{unscored}: not counted, its last row is not scored; `seekr evaluate {unscored}` does it",
        f"{tmp_path / 'only'}: not counted, its last row is not scored; `seekr evaluate {tmp_path / 'only'}` does it",
    )
    assert comparison.tasks == TASKS
    (line,) = [line for line in printed(comparison_table(comparison), 160) if " replay " in line]
    assert line.count("–") == 6
    assert csv_text(comparison).splitlines()[2].endswith(",replay,0," + "," * 18)


def test_runs_of_other_tasks_share_the_columns_of_what_all_have(tmp_path: Path) -> None:
    run(tmp_path / "one", tasks=("copy", "sort"))
    run(tmp_path / "two", tasks=("copy", "sort", "add"), method="replay")
    comparison = compare([tmp_path])
    assert comparison.tasks == ("copy", "sort")
    (note,) = comparison.notes
    assert "not of the same tasks" in note
    assert note.endswith("no column for add")


def test_what_makes_numbers_not_comparable_is_said(tmp_path: Path) -> None:
    run(tmp_path / "one")
    set_task(run(tmp_path / "two", method="replay"), "sort", test="other.json")
    assert compare([tmp_path]).notes == (
        "maybe not scored alike in all runs (another test file, test_limit, metric or max_new_tokens): sort",
    )
    run(tmp_path / "turned" / "one")
    run(tmp_path / "turned" / "two", tasks=TASKS[::-1])
    turned = compare([tmp_path / "turned"])
    assert turned.notes == ("the runs are of the same tasks in different orders",)
    assert len(turned.rows) == 2


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["runs/x"], "runs/x"),
        (["runs/x/seed-3"], "runs/x/seed-3"),
        (["runs/x/seed-3", "runs/x/seed-14"], "runs/x"),
        (["demo/seed-10/seekr", "demo/seed-11/seekr"], "demo/seed-*/seekr"),
        (["runs/s0", "runs/s1"], "runs/s*"),
        (["runs/first", "runs/second"], "runs/*"),
        (["seed-0", "seed-1"], "seed-*"),
        (["runs/x", "other/runs/x", "y"], "runs/x and 2 more"),
    ],
)
def test_names_of_rows(folders: Sequence[str], name: str) -> None:
    assert common_name([Path(folder) for folder in folders]) == name


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("tasks", [LONG, tuple(f"task{number}" for number in range(15)), ("only",)])
def test_tables_fit_and_every_number_is_whole(tmp_path: Path, width: int, tasks: Sequence[str]) -> None:
    folders = [run(tmp_path / "runs" / "a-rather-long-name" / f"seed-{s}", seed=s, tasks=tasks) for s in range(9)]
    run(tmp_path / "runs" / "joint", method="joint", tasks=tasks)
    comparison = compare([tmp_path / "runs"])
    lines = printed(comparison_table(comparison), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for name in tasks:
        assert re.search(rf"[┃│] +{name} +[┃│]", text), name
    for row in comparison.rows:
        for spread in [*(row.measure(field) for field in comparison.measures), *(row.task(name) for name in tasks)]:
            assert spread is None or re.search(rf" {re.escape(str(spread))} │", text), spread
    table = printed(seeds_table([Run(folder) for folder in folders]), width)
    assert max(map(len, table)) <= width
    assert len(re.findall(r"seed \d", "\n".join(table))) == 9
    for name in tasks:
        scores = [Run(folder).final[name] for folder in folders]
        cells = [
            cell for line in table if f"│ {name} " in line for cell in re.findall(r"[−\d. ±]*\d", line.split("│", 2)[2])
        ]
        assert [cell.strip() for cell in cells] == [
            f"{np.mean(scores):.1f} ± {2.306 * np.std(scores, ddof=1) / 3:.1f}",  # Student's t, 8 degrees of freedom
            *(f"{score:.1f}" for score in scores),
        ]


def set_general(folder: Path, guard: Sequence[float], task: Sequence[float], *, version: str = "1") -> None:
    """Likelihoods of the guard of the base model and after each task; what both score on a task of the harness."""
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"general": list(guard)}))
    about = {"task": "boolq", "metric": "acc", "error": None, "rows": 9, "version": version}
    rows = [about | {"stage": stage, "score": score} for stage, score in zip((None, "add"), task, strict=True)]
    (folder / "general.json").write_text(json.dumps(rows))


def test_general_ability_has_columns_where_a_run_has_it(tmp_path: Path) -> None:
    for seed, now in enumerate((15.0, 18.0)):
        set_general(run(tmp_path / f"x{seed}", seed=seed), [20.0, 19.0, 18.0, now], [0.5, 0.4 + seed / 100])
    run(tmp_path / "y", method="replay")
    comparison = compare([tmp_path])
    guard, change, task, task_change = comparison.general
    assert comparison.general == ("general ability", "general ability change", "general task boolq",
                                  "general task boolq change")  # fmt: skip
    x, y = comparison.rows
    assert (x.general[guard].values, x.general[change].values) == ((15.0, 18.0), (-5.0, -2.0))
    assert x.general[task].values == pytest.approx((0.4, 0.41))
    assert str(x.general[task_change]) == f"−0.095 ± {12.706 * np.std((0.4, 0.41), ddof=1) / np.sqrt(2):.3f}"
    assert y.general == {}
    texts = [csv_text(comparison), markdown_text(comparison), latex_text(comparison)]
    assert all("boolq change" in text for text in [*texts, "\n".join(printed(comparison_table(comparison), 400))])
    row, other = json.loads(as_json_text(comparison))["rows"]
    assert (row["general"][guard]["mean"], other["general"][guard]) == (16.5, None)
    assert sorted_by(comparison, guard).rows == (x, y)
    assert not comparison.notes
    set_general(tmp_path / "y", [20.0, 19.0, 18.0, 17.0], [0.5, 0.3], version="2")
    assert compare([tmp_path]).notes == ("not measured alike in all runs (rows, or versions): general task boolq",)


def test_markdown_is_aligned_and_escaped(tmp_path: Path) -> None:
    for name in ("a|b", "z"):  # two rows of one method are told apart by their folders
        run(tmp_path / name, tasks=("copy", "x"), seed=1)
    run(tmp_path / "longer-name", tasks=("copy", "x"), method="sequential")
    lines = markdown_text(compare([tmp_path])).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "a\\|b" in lines[2]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(line) for line in cells} == {3 + 3 + 2}
    assert [cell.strip()[-1] == ":" for cell in cells[1]] == [False] * 2 + [True] * 6


def test_latex_is_escaped_and_the_best_of_a_column_is_bold(tmp_path: Path) -> None:
    for name in ("a_b&c", "again"):
        run(tmp_path / name, tasks=("copy", "x_1"), seed=1)
    run(tmp_path / "other", tasks=("copy", "x_1"), method="sequential")
    comparison = compare([tmp_path])
    text = latex_text(comparison)
    lines = text.splitlines()
    assert lines[:2] == [r"\begin{tabular}{llrrrrrr}", r"\toprule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert r"x\_1 \\" in lines[2]
    assert r"a\_b\&c" in text
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines[4:-2]]
    assert {len(row) for row in rows} == {len(lines[2].split(" & "))}
    for place, field in enumerate(comparison.measures, start=3):
        means = [row.measure(field).mean for row in comparison.rows]  # type: ignore[union-attr]
        top = min(means) if field == "forgetting" else max(means)
        assert [r"\mathbf" in row[place] for row in rows] == [mean == top for mean in means]


def test_a_folder_that_follows_from_the_method_has_no_column_in_a_paper(tmp_path: Path) -> None:
    for method in ("sequential", "seekr"):
        run(tmp_path / method, method=method)
    comparison = compare([tmp_path])
    assert str(tmp_path) not in latex_text(comparison) + markdown_text(comparison)
    assert [line.split(" & ")[:2] for line in latex_text(comparison).splitlines() if " & " in line] == [
        ["method", "seeds"], ["seekr", "1"], ["sequential", "1"],
    ]  # fmt: skip
    assert markdown_text(comparison).startswith("| method ")
    assert all(str(tmp_path / name) in csv_text(comparison) for name in ("sequential", "seekr"))


def test_rows_are_sorted_by_a_column_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, method in enumerate(("replay", "sequential", "seekr")):
        run(tmp_path / method, method=method, seed=seed)
    comparison = compare([tmp_path])
    for name in ("op", "OP", "overall_performance", "bwt", "forgetting", comparison.tasks[0]):
        found = sorted_by(comparison, name)
        assert set(found.rows) == set(comparison.rows)
        field = {"op": "overall_performance", "bwt": "backward_transfer"}.get(name.lower(), name)
        values = [row.task(name) if name in comparison.tasks else row.measure(field) for row in found.rows]
        means = [spread.mean for spread in values if spread is not None]
        assert means == sorted(means, reverse=field != "forgetting")
    assert main(["compare", str(tmp_path), "--sort", "opp"]) == 2
    assert "did you mean 'op'?" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--sort", "bwt", "--latex", "-"]) == 0
    assert capsys.readouterr().out == latex_text(sorted_by(comparison, "bwt"))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "x", method="replay")
    (run(tmp_path / "y") / "stages" / "02-add").rename(tmp_path / "gone")
    expected = compare([tmp_path])
    assert main(["compare", str(tmp_path), "--csv", str(tmp_path / "t.csv"), "--markdown", str(tmp_path / "t.md")]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "t.csv").read_text() == csv_text(expected)
    assert (tmp_path / "t.md").read_text() == markdown_text(expected)
    assert all(heading in out for heading in list(HEADINGS.values())[:3])
    assert f"note: {tmp_path / 'y'}: not counted" in out
    assert err == ""
    assert main(["compare", str(tmp_path), "--csv", "-"]) == 0
    out, err = capsys.readouterr()
    assert out == csv_text(expected)
    assert err.startswith("note: ")
    for words in (["--csv", str(tmp_path)], ["--markdown", str(tmp_path / "no" / "t.md")]):
        assert main(["compare", str(tmp_path), *words]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    with pytest.raises(InputError, match=r"no run\.json there or below"):
        compare([tmp_path / "gone"])
