"""Metrics whose packages are an extra say so before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seekr import InputError, Task, learn
from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.main import main
from seekr.scoring.metrics import METRICS
from seekr.scoring.trace import trace_metrics

NEED = {"sari": "sacrebleu", "trace_20minuten": "sacrebleu", "trace_meetingbank": "rouge"}
ROWS = [{"prompt": "a", "answer": "b"}]


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules, "nltk", "rouge", "sacrebleu"]:
        if name.partition(".")[0] in ("nltk", "rouge", "sacrebleu"):
            monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"rouge_l", "superni_rouge_l"}))  # rouge_score imports nltk
def test_a_metric_works_without_the_extra_or_its_task_is_refused(metric: str) -> None:
    if metric in NEED:
        with pytest.raises(InputError, match=rf"{NEED[metric]} cannot be .*pip install 'seekr-continual\[metrics\]'"):
            Task("one", train=ROWS, metric=metric)
    else:
        Task("one", train=ROWS, metric=metric)
        assert METRICS[metric](["b"], [["b"]], ["a"]) == 100


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("task", ["MeetingBank", "20Minuten"])
def test_traces_numbers_name_the_package_that_is_missing(task: str) -> None:
    with pytest.raises(InputError, match=r"seekr-continual\[metrics\]"):
        trace_metrics(task, ["b"], ["b"], ["a"])


@pytest.mark.thorough
def test_verify_says_what_it_cannot_compute_and_calls_it_no_fault(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = builtin_rows("span", "train", seed=0, count=2)
    tasks = [Task("one", train=rows, test=rows, metric="sari", max_new_tokens=4)]
    learn(model=builtin_model(), tasks=tasks, method="sequential", training={"max_steps": 1}, output_dir=tmp_path)
    request.getfixturevalue("without_extra")
    assert main(["verify", str(tmp_path)]) == 0
    assert "scored by sari" in capsys.readouterr().out
