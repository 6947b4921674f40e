"""The field's benchmarks as lists of tasks: `tasks: {preset: trace-order-1, data: FOLDER}`.

The rows are the user's: FOLDER/<task>/{train,eval,test}.json. What is fixed here is what a published number depends
on in addition to the rows: the tasks and their order, how each is scored, epochs, and the length of a generated answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seekr.data.folders import NAMES, split_file, splits_of_folder
from seekr.data.task import Task
from seekr.disk.files import user_path
from seekr.errors import InputError, nearest
from seekr.other_names import meant

NEEDED = ("train", "test")
"""The splits that a preset cannot do without; eval is taken along where it is there."""

_OWN_KEYS = ("preset", "data", "only", "scores")


@dataclass(frozen=True)
class Preset:
    """Tasks in the order they are learned, as fields of `Task` without their files, and who published it."""

    tasks: list[dict[str, Any]]
    source: str

    @property
    def names(self) -> list[str]:
        return [task["name"] for task in self.tasks]


# Metrics as TRACE scores its tasks; the folder names are those of its release.
_TRACE = {
    "C-STANCE": "trace_c_stance",
    "FOMC": "trace_fomc",
    "MeetingBank": "trace_meetingbank",
    "Py150": "trace_py150",
    "ScienceQA": "trace_scienceqa",
    "NumGLUE-cm": "trace_numglue_cm",
    "NumGLUE-ds": "trace_numglue_ds",
    "20Minuten": "trace_20minuten",
}
_TRACE_ANSWER = 512  # max_ans_len of the released scripts, for every task: answers of the reasoning version are long
_TRACE_SOURCE = (
    "TRACE, arXiv 2310.06762; orders and epochs of jinghan1he/SEEKR, scripts/exp_seq_seekr.sh (reasoning version)"
)

# Each holds every test reference even in a vocabulary of 512: they have up to 8, 70 and 254 tokens there.
_SUPERNI_ANSWER = {
    16: ("task073", "task195", "task363", "task875"),
    96: ("task002", "task1510", "task591", "task748"),
    256: ("task1290", "task1572", "task1590", "task1729", "task181", "task511", "task639"),
}
_SUPERNI_LABELS = ("task195", "task363", "task875")  # what SEEKR scores by accuracy, inference/infer_single.py
# SEEKR's released evaluation scores SuperNI by the same code as TRACE's summaries and numbers (re_eval.py).
_RELEASED = {"superni_rouge_l": "trace_meetingbank", "superni_accuracy": "trace_numglue_cm"}
_SUPERNI_SOURCE = "SEEKR, arXiv 2411.06171; orders, epochs and metrics of jinghan1he/SEEKR"
_SUPERNI_15_SOURCE = (
    "SAPT, arXiv 2401.08295; orders and epochs of gen_script_superni_llama.py, circle-hit/SAPT, where task1687 stands "
    "in the place of task195 (both are sentiment140)"
)

_LONG_ANSWER = 50  # generation_max_length of O-LoRA and SAPT
_LONG_SOURCE = "Progressive Prompts, arXiv 2301.12314; orders 4 to 6 as O-LoRA, arXiv 2310.14152, numbers them"


def _trace(order: Sequence[str], epochs: Sequence[int]) -> Preset:
    return Preset(
        [
            _task(name, _TRACE[name], _TRACE_ANSWER, count, separator="")
            for name, count in zip(order, epochs, strict=True)
        ],
        _TRACE_SOURCE,
    )


def _superni(order: Sequence[str], epochs: int, source: str, labels: Sequence[str] = ()) -> Preset:
    length = {name: count for count, names in _SUPERNI_ANSWER.items() for name in names}
    metric = {name: "superni_accuracy" if name in labels else "superni_rouge_l" for name in length}
    return Preset([_task(name, metric[name], length[name], epochs, separator="") for name in order], source)


def _long(order: str) -> Preset:
    return Preset([_task(name, "accuracy", _LONG_ANSWER, 1) for name in order.split()], _LONG_SOURCE)


def _task(name: str, metric: str, max_new_tokens: int, epochs: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "metric": metric, "max_new_tokens": max_new_tokens, "num_train_epochs": epochs, **more}


def _numbers(text: str) -> list[str]:
    return [f"task{number}" for number in text.split()]


PRESETS: dict[str, Preset] = {
    "trace-order-1": _trace(list(_TRACE), (5, 5, 5, 5, 5, 5, 10, 5)),
    "trace-order-2": _trace(
        ("NumGLUE-cm", "NumGLUE-ds", "FOMC", "20Minuten", "C-STANCE", "Py150", "MeetingBank", "ScienceQA"),
        (10, 10, 10, 5, 5, 5, 5, 5),
    ),
    "superni-order-1": _superni(
        _numbers("1572 363 1290 181 002 1510 073 748 511 591 195 875"), 10, _SUPERNI_SOURCE, _SUPERNI_LABELS
    ),
    "superni-order-2": _superni(
        _numbers("748 073 1572 195 591 363 1510 181 511 002 1290 875"), 10, _SUPERNI_SOURCE, _SUPERNI_LABELS
    ),
    "superni-15-order-1": _superni(
        _numbers("1572 363 1290 181 002 1510 639 1729 073 1590 748 511 591 195 875"), 50, _SUPERNI_15_SOURCE
    ),
    "superni-15-order-2": _superni(
        _numbers("748 073 1590 639 1572 195 591 363 1510 1729 181 511 002 1290 875"), 50, _SUPERNI_15_SOURCE
    ),
    "long-sequence-order-4": _long("mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo"),
    "long-sequence-order-5": _long("multirc boolq wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo"),
    "long-sequence-order-6": _long("yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolq wic"),
}


def find_preset(name: Any, where: str) -> Preset:
    """A preset by its name. Raises InputError that begins with `where` and names the nearest one."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"{where}: there is no preset {name!r}; {nearest(str(name), PRESETS)}")
    return PRESETS[name]


def preset_tasks(settings: Mapping[str, Any], folder: Path, *, joint: bool = False) -> list[dict[str, Any]]:
    """The tasks that `{preset: NAME, data: FOLDER}` stands for, as a configuration lists them.

    Args:
        settings: `preset` and `data`; `only`, a list of the tasks to take, in the preset's order; `scores`:
            "released", for SuperNI as SEEKR's released evaluation scores it; and further fields of `Task`, which
            hold for every task and win over the preset's.
        folder: what a relative `data` starts from.
        joint: whether all tasks are trained as one, where epochs of their own mean nothing: they are left out, and
            those of the training settings apply.

    Raises:
        InputError: for unknown names and keys, and, listing all of it, for what the data folder lacks.
    """
    common = {key: value for key, value in settings.items() if key not in _OWN_KEYS}
    valid = {item.name for item in fields(Task)} - {"name", *NAMES}
    for key in common:
        if key not in valid:
            raise InputError(
                f"tasks: unknown key {str(key)[:60]!r} with a preset; "
                f"{meant(str(key), {*valid, *_OWN_KEYS}, 'tasks.N')}"
            )
    if settings.get("preset") is None:
        raise InputError("tasks: neither a list of tasks nor a preset; say tasks.preset=NAME, or give a list")
    preset = find_preset(settings["preset"], "tasks.preset")
    chosen = _scored(settings, _only(settings, preset))
    data = settings.get("data")
    if not isinstance(data, str | Path) or not str(data):
        raise InputError(
            f"tasks: preset {settings['preset']} needs its rows: say tasks.data=FOLDER, which holds "
            f"{preset.names[0]}/train.json and so on"
        )
    place = (folder / user_path(data)).absolute()
    if not place.is_dir():
        raise InputError(f"tasks.data: {place}: no such folder")
    if lacking := missing([task["name"] for task in chosen], place):
        raise InputError(
            f"tasks: preset {settings['preset']} lacks {', '.join(lacking)} in {place} (looked for TASK/train and "
            "TASK/test, .json or .jsonl); add them, or take some of its tasks with tasks.only=[NAME,...]"
        )
    tasks = []
    for task in chosen:
        home = place / task["name"]
        files = {split: split_file(home, split) or home for split in NAMES if split in splits_of_folder(home)}
        fixed = {key: value for key, value in task.items() if not (joint and key == "num_train_epochs")}
        tasks.append({**fixed, **{split: str(file) for split, file in files.items()}, **common})
    return tasks


def missing(names: Sequence[str], data: Path, splits: Sequence[str] = NEEDED) -> list[str]:
    """What a data folder lacks of these tasks: TASK where the whole folder is missing, else TASK/split."""
    lacking = []
    for name in names:
        held = splits_of_folder(data / name)
        absent = [split for split in splits if split not in held]
        lacking += [name] if absent and not (data / name).is_dir() else [f"{name}/{split}" for split in absent]
    return lacking


def _only(settings: Mapping[str, Any], preset: Preset) -> list[dict[str, Any]]:
    only = settings.get("only")
    if only is None:
        return preset.tasks
    names = [only] if isinstance(only, str) else only
    if not isinstance(names, list) or not names:
        raise InputError(f"tasks.only must be a list of tasks of {settings['preset']}, not {only!r}")
    for name in names:
        if name not in preset.names:
            raise InputError(
                f"tasks.only: {settings['preset']} has no task {name!r}; {nearest(str(name), preset.names)}"
            )
    return [task for task in preset.tasks if task["name"] in names]


def _scored(settings: Mapping[str, Any], tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scores = settings.get("scores")
    if scores is None:
        return tasks
    if scores != "released" or not all(task["metric"] in _RELEASED for task in tasks):
        raise InputError(
            f"tasks.scores: {scores!r} is not known for {settings['preset']}; a superni preset takes `released`, "
            "others leave it out"
        )
    return [{**task, "metric": _RELEASED[task["metric"]]} for task in tasks]
