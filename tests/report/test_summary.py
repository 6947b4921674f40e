import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run

from seekr.report.summary import MEASURES, best, by_tasks, summarize
from seekr.runs.run import Run

OVERALL, _, _, FORGETTING, _ = MEASURES


def run_with(folder: Path, final: list[float], **settings: object) -> Run:
    matrix = [[80.0, None], final]
    return Run(write_run(folder, tasks=("a", "b"), matrix=matrix, steps=5, **settings))


def test_mean_deviation_and_interval_are_those_of_numpy(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(seed), seed=seed, steps=5) for seed in range(5)]
    (summary,) = summarize([Run(folder) for folder in folders])
    assert summary.seeds == (0, 1, 2, 3, 4)
    for measure in MEASURES[:4]:
        values = [json.loads((folder / "scores.json").read_text())[measure.field] for folder in folders]
        spread = summary.spread(measure.field)
        assert spread is not None
        assert spread.mean == pytest.approx(np.mean(values), rel=1e-12)
        assert spread.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        half = 2.776 * np.std(values, ddof=1) / np.sqrt(5)  # the 97.5% point of Student's t of 4 degrees of freedom
        assert spread.half == pytest.approx(half, rel=1e-3)
        text = f"{np.mean(values):.1f} ± {spread.half:.1f}"
        assert str(spread) == text.replace("-", "−")


def test_settings_tell_methods_of_one_name_apart(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path / f"{weight}-{seed}", [50.0, 50.0], seed=seed, settings={"attention_weight": weight})
        for weight in (100, 1000)
        for seed in (0, 1)
    ]
    summaries = summarize(runs)
    assert [summary.label for summary in summaries] == ["seekr (attention_weight=100)", "seekr (attention_weight=1000)"]
    assert [summary.seeds for summary in summaries] == [(0, 1), (0, 1)]


def test_a_run_with_lora_was_labelled_as_one_without(tmp_path: Path) -> None:
    """It had `lora=None, lora.r=4`, the one without `lora={}, lora.r=None`."""
    folders = [write_run(tmp_path / name, steps=5) for name in ("full", "lora")]
    for folder, lora in zip(folders, ({}, {"r": 4}), strict=True):
        record = json.loads((folder / "run.json").read_text())
        record["identity"]["lora"] = lora
        (folder / "run.json").write_text(json.dumps(record))
    labels = [summary.label for summary in summarize([Run(folder) for folder in folders])]
    assert labels == ["seekr (lora={})", "seekr (lora.r=4)"]


def test_two_bases_were_told_apart_by_hashes_alone(tmp_path: Path) -> None:
    """It said `seekr (model=1f…, tokenizer=2e…)`; where two bases have one name, hashes are all there is."""
    folders = [write_run(tmp_path / name, steps=5) for name in ("small", "large", "other/small")]
    for folder, mark in zip(folders, ("1f", "2e", "3d"), strict=True):
        record = json.loads((folder / "run.json").read_text())
        record["identity"]["model"], record["config"]["model"] = mark, f"/models/{folder.name}"
        (folder / "run.json").write_text(json.dumps(record))
    runs = [Run(folder) for folder in folders]
    assert [summary.label for summary in summarize(runs[:2])] == ["seekr (model=small)", "seekr (model=large)"]
    labels = [summary.label for summary in summarize(runs)]
    assert labels == ["seekr (model=1f)", "seekr (model=large)", "seekr (model=3d)"]


def test_runs_of_other_tasks_in_folders_of_one_name_had_one_label(tmp_path: Path) -> None:
    """Both were `seekr (run)`."""
    folders = [write_run(tmp_path / name / "run", tasks=(name, "b"), steps=5) for name in ("first", "second")]
    labels = [summary.label for summary in summarize([Run(folder) for folder in folders])]
    assert labels == ["seekr (first/run)", "seekr (second/run)"]


def test_leader_by_direction(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path / f"{method}-{seed}", [final + seed, 50.0], method=method, seed=seed)
        for method, final in (("replay", 20.0), ("seekr", 60.0))
        for seed in (0, 1)
    ]
    summaries = summarize(runs)
    assert best(summaries, OVERALL) is summaries[1]
    assert best(summaries, FORGETTING) is summaries[1]  # 20 forgotten instead of 60


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([("joint", [90.0, 90.0])], "joint is no rival, one method is no contest"),
        ([("replay", [60.01, 50.0])], "equal as printed"),
        ([], "alone"),
    ],
)
def test_no_leader_where_it_means_nothing(tmp_path: Path, others: list[tuple[str, list[float]]], why: str) -> None:
    runs = [
        run_with(tmp_path / f"{name}-{seed}", final, method=name, seed=seed)
        for name, final in [("seekr", [60.0, 50.0]), *others]
        for seed in (0, 1)
    ]
    assert best(summarize(runs), OVERALL) is None, why


@pytest.mark.parametrize("alone", ["replay", "seekr"])
def test_one_seed_leads_nothing_and_is_led_by_nothing(tmp_path: Path, alone: str) -> None:
    """However large the lead: what one seed has by chance nobody knows."""
    runs = [
        run_with(tmp_path / f"{method}-{seed}", [final + seed, 50.0], method=method, seed=seed)
        for method, final in (("replay", 0.0), ("seekr", 90.0))
        for seed in (0, 1)[: 1 if method == alone else 2]
    ]
    assert best(summarize(runs), OVERALL) is None


@pytest.mark.parametrize(("gap", "leads"), [(1.0, False), (40.0, True)])
def test_lead_must_exceed_the_spread_of_the_seeds(tmp_path: Path, gap: float, leads: bool) -> None:
    runs = [
        run_with(tmp_path / f"{method}-{seed}", [30.0 + more + 4 * seed, 50.0], method=method, seed=seed)
        for method, more in (("replay", 0.0), ("seekr", gap))
        for seed in range(3)
    ]
    assert (best(summarize(runs), OVERALL) is not None) is leads


def test_a_lead_that_two_seeds_do_not_prove_has_no_star(tmp_path: Path) -> None:
    """Two standard errors of so few seeds are nothing: 95 ± 25 had a star beside 47 ± 38."""
    runs = [
        run_with(tmp_path / f"{method}-{seed}", [final, 50.0], method=method, seed=seed)
        for method, finals in (("replay", (40.0, 54.0)), ("seekr", (62.0, 70.0)))
        for seed, final in enumerate(finals)
    ]
    assert best(summarize(runs), OVERALL) is None


def test_other_tasks_are_not_compared(tmp_path: Path) -> None:
    """In another order too: the score of a task after the second one is then of something else."""
    ones = [run_with(tmp_path / f"one-{seed}", [60.0, 50.0], seed=seed) for seed in (0, 1)]
    others = []
    for tasks in (("a", "c"), ("b", "a")):
        for seed in (0, 1):
            folder = tmp_path / f"{''.join(tasks)}-{seed}"
            matrix: list[list[float | None]] = [[1.0, None], [1.0, 1.0]]
            others.append(Run(write_run(folder, method="replay", seed=seed, tasks=tasks, matrix=matrix)))
    assert best(summarize([*ones, *others[:2]]), OVERALL) is None
    assert by_tasks([*ones, *others]) == [ones, others[:2], others[2:]]
