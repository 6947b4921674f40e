"""Small runs: three tasks of a few rows, learned by a random model of two layers in a second or two."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import SEEKR, TRAINING

import seekr
from seekr import Run, Task


@pytest.fixture(scope="session", autouse=True)
def _imported_for_good() -> None:
    """A run collects garbage several times; with all that is imported left out of it, it takes a fifth of the time."""
    import seekr.runs.stage  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a task, with train.json and test.json."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        for split, count in (("train", 14), ("test", 3)):
            rows = [{"prompt": f"{name} {i * 7 % 10}=", "answer": f"{name}{i % 3}"} for i in range(count)]
            (folder / name / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def task(data_folder: Path) -> Callable[..., Task]:
    """Makes a task of the data folder."""

    def make(name: str, **more: Any) -> Task:
        files = {"train": data_folder / name / "train.json", "test": data_folder / name / "test.json"}
        return Task(name, **{**files, "max_new_tokens": 3, **more})

    return make


@pytest.fixture(scope="session")
def learn(tiny_model_folder: Path, task: Callable[..., Task]) -> Callable[..., Run]:
    """`seekr.learn` with small settings; `tasks` may be names."""

    def run(output_dir: Path, tasks: Any = "ab", **more: Any) -> Run:
        made = [task(item) if isinstance(item, str) else item for item in tasks]
        return seekr.learn(
            **{
                "model": tiny_model_folder,
                "tasks": made,
                "output_dir": output_dir,
                "method": SEEKR,
                "training": TRAINING,
                **more,
            }
        )

    return run


@pytest.fixture(scope="session")
def finished(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of seekr on tasks a and b that was never stopped. Not to be written to."""
    return learn(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def config(tiny_model_folder: Path, data_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A configuration with relative paths, as it would be written down."""
    (tmp_path / "data").symlink_to(data_folder)
    (tmp_path / "model").symlink_to(tiny_model_folder)
    tasks = [
        {"name": n, "train": f"data/{n}/train.json", "test": f"data/{n}/test.json", "max_new_tokens": 3} for n in "ab"
    ]
    method = {**SEEKR}
    return {"model": "model", "tasks": tasks, "method": method, "training": {**TRAINING}, "output_dir": "runs/x"}
