"""The bench's rows: every path takes its steps. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import stdev

import pytest
import torch

from seekr import bench
from seekr.bench import divergence, meters, sensitivity, shapes, step, task_step
from seekr.bench.tables import HEADINGS, bench_cells
from seekr.cli.main import main

pytestmark = pytest.mark.thorough

TINY = replace(shapes.SMALL, name="tiny", layers=2, heads=2, key_heads=1, vocabulary=300, chosen=(1, 2), lengths=(24,))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that takes seconds."""
    monkeypatch.setattr(bench, "shapes_here", lambda: (TINY,))
    monkeypatch.setenv("OMP_PROC_BIND", "false")  # tests share their cores
    for module in (step, divergence, task_step):
        monkeypatch.setattr(module, "TURNS", 4)
    monkeypatch.setitem(divergence.CASES, "cpu", [divergence.Case(4, 2, 16, 33)])
    monkeypatch.setattr(sensitivity, "LENGTHS", (64, 128))


@pytest.mark.usefixtures("small")
def test_bench_prints_and_writes_every_kind_of_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", str(tmp_path / "bench.json")]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result) == {"machine", "rows"}
    kinds = {row["what"] for row in result["rows"]}
    assert kinds == {"step", "divergence", "task step", "sensitivity"}
    for row in result["rows"]:
        if row["what"] in ("step", "divergence", "task step"):
            assert row["seconds"] > 0
        if row["what"] == "step":
            assert row["peak_bytes"] > 0
            assert row["path"] != "seekr" or 0 < row["own_share"] < 1
    cells = bench_cells(result["rows"])
    assert len(cells) == len(result["rows"])
    assert {len(line) for line in cells} == {len(HEADINGS)}
    compared = [line[3] for line in cells if line[0] in ("replay step", "layer, both passes", "task step")]
    assert sum(" ± " in times for times in compared) == len(compared) - 3, "three cases, each with a first row"
    shown = capsys.readouterr().out
    assert shown.count("replay step") == sum(row["what"] == "step" for row in result["rows"]) > 1


@pytest.mark.usefixtures("small")
def test_a_way_that_does_not_fit_is_a_row_without_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where one model takes all ways, and built maps are the first that it has no memory for."""

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step.Steps, "_built_maps", refuse)
    rows = step.step_rows(TINY, 24, [("plain", None), ("seekr", 5), ("eager", None)], apart=False)
    assert [row["seconds"] is None for row in rows] == [False, False, True]
    assert "does not fit" in bench_cells(rows)[-1]


def test_chosen_heads_are_as_many_as_said() -> None:
    for shape in (shapes.SMALL, shapes.LLAMA_2_7B, shapes.GROUPED_7B):
        chosen = shape.chosen_heads()
        assert len(chosen) == shape.chosen[0]
        assert sum(map(len, chosen.values())) == shape.chosen[1]
        assert max(chosen) == shape.layers - 1
        assert all(len(set(heads)) == len(heads) and max(heads) < shape.heads for heads in chosen.values())


def test_a_ratio_is_paired_and_its_interval_that_of_students_t() -> None:
    """A machine that slows down by a half in between changes no ratio; t for 4 and 12 values as tables have it."""
    assert meters.ratio([2.0, 3.0, 4.0, 6.0], [1.0, 1.5, 2.0, 3.0]) == (2.0, None)  # no spread, so nothing is known
    assert meters.ratio([1.0, 3.0], [1.0, 1.0]) == (2.0, None)
    for values, t in ((4, 3.182), (5, 2.776), (12, 2.201)):
        ratios = [1 + i / 10 for i in range(values)]
        expected = t * stdev(ratios) / values**0.5
        assert meters.ratio(ratios, [1.0] * values)[1] == pytest.approx(expected, rel=1e-9)


def test_turns_alternate_and_the_first_is_not_counted() -> None:
    done: list[str] = []
    works = {name: partial(lambda name: done.append(name) or len(done), name) for name in "ab"}
    assert meters.in_turn(works, 3, {"b": 1}) == {"a": [3, 5, 6], "b": [4]}
    assert "".join(done) == "ababaa"
