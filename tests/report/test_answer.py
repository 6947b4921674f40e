"""What the page and the demo say first: scores with their errors, what was forgotten, what was held."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run

from seekr.cli.main import main
from seekr.report.answer import answers
from seekr.report.estimate import Estimate, measured, scored
from seekr.report.forgotten import changes, changes_over_seeds
from seekr.report.page import render
from seekr.report.summary import by_tasks, summarize
from seekr.runs.run import Run
from seekr.scoring.uncertainty import error_of_alike, half_interval, standard_error

TASKS = ("copy", "sort", "add")
ROWS = 40


def run_with(folder: Path, learned: Sequence[int], last: Sequence[int], *, method: str = "seekr", seed: int = 0) -> Run:
    """Of each task so many of 40 answers are right when it was learned, and so many at the end."""
    joint = method == "joint"
    right = {(2, task): count for task, count in enumerate(last)}
    right |= {} if joint else {(task, task): count for task, count in enumerate(learned)} | {(2, 2): last[2]}
    matrix = [[100 * right[i, j] / ROWS if (i, j) in right else None for j in range(3)] for i in range(3)]
    write_run(folder, method=method, seed=seed, tasks=TASKS, matrix=matrix, steps=5)
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"metrics": ["accuracy"] * 3}))
    for (i, j), count in right.items():
        rows = [
            {"prompt": f"#{row}", "prediction": "yes" if row < count else "no", "references": ["yes"]}
            for row in range(ROWS)
        ]
        (folder / "predictions" / f"{i}-{j}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


def of_rows(count: int) -> float:
    values = 100.0 * (np.arange(ROWS) < count)
    return float(values.std(ddof=1) / math.sqrt(ROWS))


def test_the_first_line_says_score_joint_forgotten_and_held(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path / "sequential", (40, 36, 30), (4, 2, 30), method="sequential"),
        run_with(tmp_path / "seekr", (40, 36, 30), (16, 35, 30)),
        run_with(tmp_path / "joint", (), (40, 38, 36), method="joint"),
    ]
    found = answers(summarize(runs))
    error = math.hypot(of_rows(16), of_rows(35), of_rows(30)) / 3
    assert [str(answer) for answer in found] == [
        f"seekr 67.5 ± {error:.1f} of joint's 95.0; forgotten: copy 100 → 40; held: sort",
        f"sequential 30.0 ± {math.hypot(of_rows(4), of_rows(2), of_rows(30)) / 3:.1f} of joint's 95.0; "
        "forgotten: copy 100 → 10, sort 90 → 5",
    ]
    page = render(runs, [tmp_path])
    first = re.sub(r"<[^>]*>", "", page[page.index("</h1>") : page.index("<h2>")])
    said = f"seekr 67.5 ± {error:.1f} of joint&#39;s 95.0; ✗ forgotten: copy 100 → 40; ✓ held: sort"
    assert said in " ".join(first.split())


def test_a_score_of_one_run_has_the_error_of_its_rows(tmp_path: Path) -> None:
    (summary,) = summarize([run_with(tmp_path / "run", (40, 36, 30), (16, 35, 30))])
    assert scored(summary, 2, 1) == Estimate(87.5, pytest.approx(of_rows(35)))
    assert scored(summary, 1, 0) is None
    found = changes(summary.runs[0])
    transfer = measured(summary, "backward_transfer")
    assert transfer is not None
    assert transfer.value == pytest.approx(-(60 + 2.5) / 2)
    assert transfer.error == pytest.approx(math.hypot(found[0].error, found[1].error) / 2)
    over_all = measured(summary, "backward_transfer_over_all_tasks")
    assert over_all is not None
    assert over_all.error == pytest.approx(transfer.error * 2 / 3)
    assert measured(summary, "forgetting") == Estimate(pytest.approx(62.5 / 2), None)  # a maximum over scores


def test_scores_of_several_seeds_have_the_interval_of_the_seeds(tmp_path: Path) -> None:
    lasts = [(16, 35, 30), (20, 30, 31), (10, 36, 33)]
    runs = [run_with(tmp_path / f"seed-{i}", (40, 36, 30), last, seed=i) for i, last in enumerate(lasts)]
    (summary,) = summarize(runs)
    finals = [100 * last[1] / ROWS for last in lasts]
    assert scored(summary, 2, 1) == Estimate(pytest.approx(np.mean(finals)), half_interval(finals), 3)
    means = [run.scores.overall_performance for run in runs]
    assert measured(summary, "overall_performance") == Estimate(
        pytest.approx(np.mean(means)), pytest.approx(half_interval(means)), 3
    )


def test_rows_that_are_all_alike_are_not_said_to_be_certain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, `learn` and `check` read "0.0 ± 0.0" where the few rows of a task were all wrong."""
    run = run_with(tmp_path / "run", (40, 40, 0), (0, 40, 0))
    shown = [str(*answers(summarize([run]))), render([run], [run.folder])]
    main(["check", str(run.folder)])
    shown.append(capsys.readouterr().out)
    assert not any("± 0.0" in text for text in shown)
    error = error_of_alike(ROWS)
    assert f"33.3 ± {error / math.sqrt(3):.1f}; forgotten: copy 100 → 0" in shown[0]
    assert f"± {error:.1f}" in shown[1]
    assert [line.split()[1:] for line in shown[2].splitlines() if line.split()[:1] in (["copy"], ["sort"])] == [
        ["100.0", "0.0", "100.0", f"{2 * error:.1f}", "forgotten"],
        ["100.0", "100.0", "0.0", f"{2 * error:.1f}", "held"],
    ]


def test_a_seed_that_is_not_finished_is_in_no_mean(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_with(tmp_path / f"seed-{seed}", (40, 36, 30), (16 + seed, 35, 30), seed=seed)
    run = run_with(tmp_path / "seed-2", (4, 4, 4), (4, 4, 4), seed=2)
    scores = json.loads((run.folder / "scores.json").read_text())
    scores["matrix"][2] = [None] * 3
    (run.folder / "scores.json").write_text(json.dumps(scores))
    (summary,) = summarize([Run(tmp_path / f"seed-{seed}") for seed in (0, 1, 2)])
    assert scored(summary, 0, 0) == Estimate(100.0, None, 2)  # alike, so that nothing is known of their spread
    assert "seekr · mean of seeds 0, 1<" in render([*summary.runs], [tmp_path])


def test_a_drop_over_seeds_is_unsure_by_rows_and_by_seeds(tmp_path: Path) -> None:
    """The seeds share their test rows, whose error does not shrink with more of them."""
    lasts = [(16, 35, 30), (20, 30, 30), (10, 36, 30)]
    runs = [run_with(tmp_path / f"seed-{i}", (40, 36, 30), last, seed=i) for i, last in enumerate(lasts)]
    first, second, third = changes_over_seeds(runs)
    drops = [100 * (40 - last[0]) / ROWS for last in lasts]
    by_rows = np.mean([changes(run)[0].error for run in runs])
    assert (first.before, first.drop) == (100, pytest.approx(np.mean(drops)))
    assert first.error == pytest.approx(math.hypot(standard_error(drops), by_rows))
    assert (first.verdict, second.verdict, third.verdict) == ("forgotten", "held", "just learned")


def test_answers_that_are_not_those_that_were_scored_give_no_error(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", (40, 36, 30), (16, 35, 30))
    file = tmp_path / "run" / "predictions" / "2-1.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:20]))
    (summary,) = summarize([run])
    assert scored(summary, 2, 1) == Estimate(87.5, None)
    measure = measured(summary, "overall_performance")
    assert measure is not None
    assert measure.error is None
    said = f"No ± for sort in {run.folder}: the answers that were scored are not all in predictions/"
    assert said in render([run], [tmp_path])


def test_other_tasks_are_another_part_of_the_page(tmp_path: Path) -> None:
    """With an axis, a table and a joint of their own; the same tasks in another order too."""
    one = run_with(tmp_path / "seekr", (40, 36, 30), (16, 35, 30))
    joint = run_with(tmp_path / "joint", (), (40, 38, 36), method="joint")
    other = Run(write_run(tmp_path / "other", tasks=TASKS[::-1], steps=5))
    runs = [one, other, joint]
    assert by_tasks(runs) == [[one, joint], [other]]
    page = render(runs, [tmp_path])
    parts = page.split('<section id="tasks-')[1:]
    assert ["copy → sort → add" in part for part in parts] == [True, False]
    assert [part.split("</section>")[0].count("of joint&#39;s 95.0") for part in parts] == [1, 0]
    assert [part.split("</section>")[0].count('aria-label="Overall performance') for part in parts] == [1, 0]


@pytest.mark.parametrize(("kept", "said"), [(True, "--cells seen</code> does it"), (False, "weights are gone")])
def test_the_page_says_how_to_see_when_a_task_was_lost(tmp_path: Path, kept: bool, said: str) -> None:
    run = run_with(tmp_path / "my run", (40, 36, 30), (16, 35, 30))
    for stage in run.stages if kept else ():
        (stage.folder / "model").mkdir()
        (stage.folder / "model" / "model.safetensors").write_text("")
    page = " ".join(render([run], [run.folder]).split())
    assert said in page
    assert (f"seekr evaluate &#39;{run.folder}&#39; --cells seen" in page) is kept
    matrix = json.loads((run.folder / "scores.json").read_text())
    matrix["matrix"][1][0] = 50.0
    (run.folder / "scores.json").write_text(json.dumps(matrix))
    assert "when a task was lost" not in render([run], [run.folder]).lower()
