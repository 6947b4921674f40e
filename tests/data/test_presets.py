"""Presets: the published orders, what they become in a configuration, and the one line about what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_folders import write_tasks

from seekr.data.presets import PRESETS, missing, preset_tasks
from seekr.data.task import Task
from seekr.errors import InputError
from seekr.scoring.metrics import METRICS

# As published, written down a second time.
ORDERS = {
    "trace-order-1": "C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm NumGLUE-ds 20Minuten",
    "trace-order-2": "NumGLUE-cm NumGLUE-ds FOMC 20Minuten C-STANCE Py150 MeetingBank ScienceQA",
    "superni-order-1": "1572 363 1290 181 002 1510 073 748 511 591 195 875",
    "superni-order-2": "748 073 1572 195 591 363 1510 181 511 002 1290 875",
    "superni-15-order-1": "1572 363 1290 181 002 1510 639 1729 073 1590 748 511 591 195 875",
    "superni-15-order-2": "748 073 1590 639 1572 195 591 363 1510 1729 181 511 002 1290 875",
    "long-sequence-order-4": "mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
    "long-sequence-order-5": "multirc boolq wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo",
    "long-sequence-order-6": "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolq wic",
}
EPOCHS = {
    "trace-order-1": [5, 5, 5, 5, 5, 5, 10, 5],
    "trace-order-2": [10, 10, 10, 5, 5, 5, 5, 5],
    "superni-order": [10] * 12,
    "superni-15": [50] * 15,
    "long-sequence": [1] * 15,
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "trace", PRESETS["trace-order-1"].names)


def expand(preset: str, data: Path | str, **more: Any) -> list[dict[str, Any]]:
    return preset_tasks({"preset": preset, "data": str(data), **more}, Path.cwd())


def test_orders_and_epochs_are_the_published_ones() -> None:
    assert set(PRESETS) == set(ORDERS)
    for name, order in ORDERS.items():
        numbered = [f"task{item}" if item.isdecimal() else item for item in order.split()]
        assert PRESETS[name].names == numbered
        epochs = next(epochs for prefix, epochs in EPOCHS.items() if name.startswith(prefix))
        assert [task["num_train_epochs"] for task in PRESETS[name].tasks] == epochs


@pytest.mark.parametrize("prefix", ["trace", "superni-order", "superni-15", "long"])
def test_the_orders_of_a_benchmark_have_the_same_tasks(prefix: str) -> None:
    sets = [sorted(preset.names) for name, preset in PRESETS.items() if name.startswith(prefix)]
    assert all(names == sets[0] and len(set(names)) == len(names) for names in sets)
    assert len(sets) >= 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_tasks(name: str, tmp_path: Path) -> None:
    data = write_tasks(tmp_path, PRESETS[name].names)
    tasks = [Task(**settings) for settings in expand(name, data)]
    assert [task.name for task in tasks] == PRESETS[name].names
    assert {task.metric for task in tasks} <= set(METRICS)
    for task in tasks:
        assert (task.train, task.eval, task.test) == tuple(
            str(data / task.name / f"{split}.json") for split in ("train", "eval", "test")
        )
    assert json.loads(json.dumps(expand(name, data))) == expand(name, data)  # run.json keeps it


def test_what_is_published_of_the_scores() -> None:
    metrics = {task["name"]: task["metric"] for task in PRESETS["superni-order-1"].tasks}
    assert {name for name, metric in metrics.items() if metric == "superni_accuracy"} == {
        "task363",
        "task875",
        "task195",
    }
    assert {task["metric"] for task in PRESETS["superni-15-order-1"].tasks} == {"superni_rouge_l"}
    assert {task["metric"] for task in PRESETS["long-sequence-order-4"].tasks} == {"accuracy"}
    assert {task["separator"] for task in PRESETS["trace-order-1"].tasks} == {""}
    assert len({task["metric"] for task in PRESETS["trace-order-2"].tasks}) == 8


def test_fields_beside_the_preset_hold_for_every_task(trace: Path) -> None:
    tasks = expand("trace-order-1", trace, train_limit=3, max_new_tokens=9, num_train_epochs=1)
    assert {(task["train_limit"], task["max_new_tokens"], task["num_train_epochs"]) for task in tasks} == {(3, 9, 1)}
    assert len(tasks) == 8


def test_superni_as_the_released_evaluation_scores_it(tmp_path: Path) -> None:
    data = write_tasks(tmp_path, PRESETS["superni-order-1"].names)
    plain, released = expand("superni-order-1", data), expand("superni-order-1", data, scores="released")
    metrics = {"superni_rouge_l": "trace_meetingbank", "superni_accuracy": "trace_numglue_cm"}
    assert released == [{**task, "metric": metrics[task["metric"]]} for task in plain]
    labels = {task["name"] for task in released if task["metric"] == "trace_numglue_cm"}
    assert labels == {"task195", "task363", "task875"}


def test_only_keeps_the_order_of_the_preset(trace: Path) -> None:
    tasks = expand("trace-order-2", trace, only=["FOMC", "NumGLUE-cm"])
    assert [task["name"] for task in tasks] == ["NumGLUE-cm", "FOMC"]
    assert [task["name"] for task in expand("trace-order-2", trace, only="FOMC")] == ["FOMC"]


def test_the_method_joint_has_no_epochs_of_single_tasks(trace: Path) -> None:
    settings = {"preset": "trace-order-1", "data": str(trace)}
    assert all("num_train_epochs" not in task for task in preset_tasks(settings, trace, joint=True))
    more = {**settings, "num_train_epochs": 2}
    assert {task["num_train_epochs"] for task in preset_tasks(more, trace, joint=True)} == {2}


def test_relative_data_starts_from_the_folder_and_files_may_have_other_names(trace: Path) -> None:
    (trace / "FOMC" / "eval.json").rename(trace / "FOMC" / "dev.json")
    (trace / "C-STANCE" / "eval.json").unlink()
    tasks = {task["name"]: task for task in preset_tasks({"preset": "trace-order-1", "data": "trace"}, trace.parent)}
    assert tasks["FOMC"]["eval"] == str(trace / "FOMC" / "dev.json")
    assert "eval" not in tasks["C-STANCE"]


def test_all_that_is_missing_is_told_in_one_line(trace: Path) -> None:
    (trace / "MeetingBank" / "train.json").unlink()
    (trace / "Py150" / "train.json").unlink()
    (trace / "Py150" / "test.json").unlink()
    for file in (trace / "20Minuten").iterdir():
        file.unlink()
    (trace / "20Minuten").rmdir()
    with pytest.raises(InputError) as told:
        expand("trace-order-1", trace)
    message = str(told.value)
    assert "lacks MeetingBank/train, Py150/train, Py150/test, 20Minuten in " in message
    assert str(trace) in message
    assert "\n" not in message
    assert len(expand("trace-order-1", trace, only=["FOMC", "ScienceQA"])) == 2
    assert missing(["FOMC", "Py150"], trace) == ["Py150/train", "Py150/test"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"preset": "trace-order-3"}, "did you mean 'trace-order-"),
        ({"preset": 3}, "tasks.preset: there is no preset 3; "),
        ({}, "say tasks.preset=NAME"),
        ({"preset": "trace-order-1"}, "say tasks.data=FOLDER"),
        ({"preset": "trace-order-1", "data": ""}, "say tasks.data=FOLDER"),
        ({"preset": "trace-order-1", "data": "nowhere"}, "nowhere: no such folder"),
        ({"preset": "trace-order-1", "data": ".", "only": ["FOMD"]}, "has no task 'FOMD'; did you mean 'FOMC'?"),
        ({"preset": "trace-order-1", "data": ".", "scores": "released"}, "tasks.scores: 'released' is not known for"),
        ({"preset": "superni-order-1", "data": ".", "scores": "mine"}, "a superni preset takes `released`"),
        ({"preset": "trace-order-1", "data": ".", "only": []}, "tasks.only must be a list"),
        ({"preset": "trace-order-1", "data": ".", "only": 4}, "tasks.only must be a list"),
        ({"preset": "trace-order-1", "data": ".", "train_limt": 4}, "did you mean 'train_limit'?"),
        ({"preset": "trace-order-1", "data": ".", "train": "x"}, "unknown key 'train'"),
        ({"preset": "trace-order-1", "data": ".", "0": {}}, "unknown key '0'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        preset_tasks(settings, tmp_path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("preset", "data", "model", "too_long"),
    [
        ("superni-15-order-1", "superni", "nano-instruct", {}),
        ("superni-15-order-1", "superni", "stories260K", {}),
        ("superni-15-order-1", "superni", "tinystories-656k", {}),
        ("trace-order-1", "trace_reasoning", "nano-instruct", {"MeetingBank": 1}),
    ],
)
def test_the_references_fit_into_the_generated_answers(
    shared: Path, preset: str, data: str, model: str, too_long: dict[str, int]
) -> None:
    """Vocabularies of 4096, 512 and 2048: far more tokens a word than a large model's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / model)
    for task in PRESETS[preset].tasks:
        rows = json.loads((shared / "data" / data / task["name"] / "test.json").read_text())
        lengths = [len(ids) + 1 for ids in tokenizer([row["answer"] for row in rows])["input_ids"]]
        longer = sum(length > task["max_new_tokens"] for length in lengths)
        assert longer == too_long.get(task["name"], 0), task["name"]
