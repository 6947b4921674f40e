"""The bench's rows: what they say of bytes, and that every path takes its steps. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seekr import bench
from seekr.bench import bytes as bytes_bench
from seekr.bench import divergence, sensitivity, shapes, step, worker
from seekr.bench.tables import bench_cells
from seekr.cli.main import main

pytestmark = pytest.mark.thorough

TINY = replace(shapes.SMALL, name="tiny", layers=2, heads=2, key_heads=1, vocabulary=300, chosen=(1, 2), lengths=(24,))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that takes seconds."""
    monkeypatch.setattr(bench, "shapes_here", lambda: (TINY,))
    monkeypatch.setattr(step, "STEPS", 1)
    monkeypatch.setitem(divergence.CASES, "cpu", [divergence.Case(4, 2, 16, 33)])
    monkeypatch.setattr(sensitivity, "LENGTHS", (64, 128))
    for name, value in {"LENGTH": 128, "VOCABULARY": 300, "LAYERS": 2, "CHOSEN_HEADS": 5, "ANSWER_TOKENS": 64}.items():
        monkeypatch.setattr(bytes_bench, name, value)


@pytest.mark.usefixtures("small")
def test_bench_prints_and_writes_every_kind_of_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", str(tmp_path / "bench.json")]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result) == {"machine", "rows"}
    kinds = {row["what"] for row in result["rows"]}
    assert kinds == {"step", "divergence", "task step", "bytes", "sensitivity"}
    for row in result["rows"]:
        if row["what"] in ("step", "divergence", "task step"):
            assert row["seconds"] > 0
        if row["what"] == "step":
            assert row["peak_bytes"] > 0
            # Without attention distillation none of a step is spent on it.
            assert (row["own_seconds"] > 0) == (row["path"] == "seekr")
            assert row["own_share"] < 1
        if row["what"] == "bytes" and row["form"] == "exact":
            assert row["loss_error"] < 1e-6
            assert row["gradient_cosine"] > 1 - 1e-6
    cells = bench_cells(result["rows"])
    assert len(cells.rows) == len(result["rows"])
    assert {len(line) for line in cells.rows} == {len(cells.headings)}
    shown = capsys.readouterr().out
    assert shown.count("replay step") == sum(row["what"] == "step" for row in result["rows"]) > 1


@pytest.mark.usefixtures("small")
def test_a_way_that_does_not_fit_is_a_row_without_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where one model takes all ways, and built maps are the first that it has no memory for."""

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError

    for queries in (None, 5):
        worker.remember(tmp_path / str(queries), TINY, 24, queries)
    monkeypatch.setattr(worker.Steps, "_built_maps", refuse)
    steps = worker.Steps(tmp_path, TINY, [("plain", None), ("seekr", 5), ("eager", None)])
    assert steps.step(("eager", None)) == {"seconds": None}
    taken = {way: [steps.step(way)] for way in (("plain", None), ("seekr", 5))}
    rows = [step._row(TINY, 24, way, found) for way, found in taken.items()]
    rows.append(step._row(TINY, 24, ("eager", None), [{"seconds": None}]))
    assert [row["seconds"] is None for row in rows] == [False, False, True]
    assert "does not fit" in bench_cells(rows).rows[-1]


def test_chosen_heads_are_as_many_as_said() -> None:
    for shape in (shapes.SMALL, shapes.LLAMA_2_7B, shapes.GROUPED_7B):
        chosen = shape.chosen_heads()
        assert len(chosen) == shape.chosen[0]
        assert sum(map(len, chosen.values())) == shape.chosen[1]
        assert max(chosen) == shape.layers - 1
        assert all(len(set(heads)) == len(heads) and max(heads) < shape.heads for heads in chosen.values())


@pytest.mark.slow
def test_the_smallest_form_takes_at_most_a_twentieth_of_the_released_bytes() -> None:
    """Llama-2-7B shape, 1024 tokens, at all queries and at 100; the released form is computed from its description."""
    for queries, released in ((None, 334e6), (100, 91.8e6)):
        rows = {row["form"]: row for row in bench.bytes_rows() if row["queries"] == queries}
        assert rows["top"]["released_bytes"] == pytest.approx(released, rel=2e-3)
        assert rows["top"]["bytes"] <= 0.05 * released
        assert all(row["gradient_cosine"] > 0.99 for row in rows.values())
        # Nothing is said of what is inside a bucket: the divergence of the whole row is larger.
        assert rows["top"]["loss_error"] < 0.3
        assert all(rows[form]["loss_error"] < 0.02 for form in ("exact", "query_key", "rows"))
