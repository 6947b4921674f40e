"""The bench's rows: what they say of bytes, and that every path takes its steps. Nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seekr import bench
from seekr.bench import bytes as bytes_bench
from seekr.bench import sensitivity, step
from seekr.cli import main


def test_bench_prints_and_writes_every_kind_of_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "LENGTHS", (24,))
    monkeypatch.setattr(step, "STEPS", 1)
    monkeypatch.setattr(step, "PATHS", (("plain", None), ("seekr", 100), ("eager", None)))
    monkeypatch.setattr(sensitivity, "LENGTHS", (64, 128))
    for name, value in {"LENGTH": 128, "VOCABULARY": 300, "LAYERS": 2, "CHOSEN_HEADS": 5, "ANSWER_TOKENS": 64}.items():
        monkeypatch.setattr(bytes_bench, name, value)
    assert main(["bench", "--json", str(tmp_path / "bench.json")]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result) == {"machine", "rows"}
    kinds = {row["what"] for row in result["rows"]}
    assert kinds == {"step", "sensitivity", "bytes"}
    for row in result["rows"]:
        if row["what"] == "step":
            assert row["seconds"] > 0
            assert row["peak_bytes"] > 0
        if row["what"] == "bytes" and row["form"] == "exact":
            assert row["loss_error"] < 1e-6
            assert row["gradient_cosine"] > 1 - 1e-6


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
