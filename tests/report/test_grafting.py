"""The grafting study in words, in a table and in a drawing: every number is there, at any width."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from seekr.report.charts import graft_chart
from seekr.report.grafting import grafted_table, groups, verdicts
from seekr.report.summary import signed
from seekr.runs.grafted import Grafted, add_grafted, read_grafted
from seekr.scoring.uncertainty import error_of_alike

STAGES = ("sort", "lookup", "last")


def grafted(task: str, heads: str, score: float, *, donor: str | None = None, error: float | None = 1.5) -> Grafted:
    seeds = (0, 1, 2) if heads == "random" else ()
    count = 32 if heads == "all" else 8
    return Grafted(task, donor or task, "last", heads, count, seeds, 100, 90.0, 50.0, score, error)


def study(*, random: float = 60.0, error: float | None = 1.5) -> list[Grafted]:
    scores = {"all": 100.0, "selected": 80.0, "random": random}
    return [grafted(task, heads, score, error=error) for task in ("sort", "lookup") for heads, score in scores.items()]


@pytest.mark.parametrize("width", [46, 50, 80, 160])
def test_the_table_fits_and_keeps_its_numbers(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(grafted_table(study()))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    numbers = [re.findall(r"[+-]?\d+\.\d", line) for line in lines]
    error = ["3.0"] if width > 50 else []
    assert [row for row in numbers if row][:3] == [
        ["90.0", "50.0", "100.0", "+50.0", *error], ["80.0", "+30.0", *error], ["60.0", "+10.0", *error],
    ]  # fmt: skip
    assert "draws by seeds 0, 1, 2" in " ".join(" ".join(lines).split())


def test_gains_that_are_all_alike_are_not_certain_in_files_of_before(tmp_path: Path) -> None:
    """Their error was written as 0."""
    add_grafted(
        tmp_path, [grafted("sort", "all", 50.0, error=0.0), grafted("add", "all", 60.0)], ["sort", "add", "last"]
    )
    assert [one.error for one in read_grafted(tmp_path)] == [error_of_alike(100), 1.5]


def test_nothing_gained_or_lost_has_no_sign() -> None:
    """It read "-0.0" where a task held what it had."""
    (said,) = verdicts(
        [Grafted("sort", "sort", "last", "all", 8, (), 9, 50.0, 50.01, 50.0, None)], stages=STAGES, held=False
    )
    assert said == "sort lost 0.0 points until last was learned; old maps add 0.0 in all heads"
    assert [signed(gain) for gain in (-0.01, 0.0, 0.26, -0.26)] == ["0.0", "0.0", "+0.3", "−0.3"]


def test_what_comes_back_is_the_mean_over_tasks() -> None:
    lost, chosen = verdicts(study(), stages=STAGES, held=False)
    assert lost == (
        "2 tasks lost 40.0 points each until last was learned; old maps bring back 50.0 ± 2.1 (125%) in all heads, "
        "30.0 ± 2.1 (75%) in the selected heads, 10.0 ± 2.1 (25%) in as many random ones"
    ), "it said how much came back, and not that a gain may be chance"
    assert chosen == "the selected heads carry more of these tasks than random ones: +20.0 ± 3.0"  # 2·√(4 · 1.5²)/2


@pytest.mark.parametrize(
    ("random", "error", "said"),
    [
        (78.0, 1.5, "carry no more, beyond chance, of these tasks than random ones: +2.0 ± 3.0"),
        (99.0, 1.5, "carry less of these tasks than random ones: −19.0 ± 3.0"),
        (78.0, None, "selected less random heads: +2.0"),
    ],
)
def test_a_difference_within_chance_is_called_none(random: float, error: float | None, said: str) -> None:
    assert list(verdicts(study(random=random, error=error), stages=STAGES, held=False))[1].endswith(said)
    assert (
        "this run held the maps of the selected ones"
        in list(verdicts(study(random=random), stages=STAGES, held=True))[1]
    )


def test_models_that_are_not_the_usual_ones_are_named_and_left_out_of_the_means() -> None:
    found = [*study(), grafted("sort", "all", 0.0, donor="lookup")]
    assert [name for name, _ in groups(found)] == ["sort", "lookup", "sort (lookup → last)"]
    assert list(verdicts(found, stages=STAGES, held=False)) == list(verdicts(study(), stages=STAGES, held=False))
    assert not list(verdicts([], stages=STAGES, held=False))


def test_a_model_from_before_the_task_has_lost_nothing_of_it() -> None:
    """By `--from sort --to first` the page said that sort had lost 90 points until first was learned."""
    backwards = [replace(one, model=model) for one in study() for model in (one.task, "first")]
    assert not list(verdicts(backwards, stages=("first", *STAGES), held=False))
    gone = list(verdicts(study(), stages=(), held=False))
    assert gone == list(verdicts(study(), stages=STAGES, held=False)), "stages that cannot be told are not judged"


def test_the_drawing_has_a_mark_for_each_score() -> None:
    drawing = graft_chart(groups(study()), ["all", "selected", "random"], "Scores")
    assert [drawing.count(f'class="mark{number}"') for number in range(4)] == [2, 2, 2, 0]
    left = 16 + 7 * len("lookup")
    for number, score in enumerate((100, 80, 60)):
        assert f'<path class="mark{number}" d="M{left + 3 * score:.1f} ' in drawing
