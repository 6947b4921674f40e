"""Metrics whose packages are an extra say so before anything is trained."""

from __future__ import annotations

import sys

import pytest

from seekr import InputError, Task
from seekr.scoring import METRICS, trace_metrics

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
