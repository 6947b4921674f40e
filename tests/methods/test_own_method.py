"""A method of a user's own: found by package.module.Class, and its penalty counted once a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from seekr import Task, learn
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.methods import Sequential, find_method, make_method

SOURCE = """
from typing import Annotated

from pydantic import Field

from seekr.methods import Method


class Decay(Method):
    name = "decay"
    strength: Annotated[float, Field(ge=0)] = 0.1

    def start(self, context):
        objective = super().start(context)
        objective.penalties["decay"] = self.decay
        return objective

    def decay(self, model):
        return self.strength * sum(p.float().square().sum() for p in model.parameters())


class Stranger:
    pass
"""
MISPLACED = """
from seekr.methods import Method


class Lost(Method):
    name = "lost"

    def penalties(self, model):
        return {}
"""
MISPLACED_TOO = """
from seekr.methods import Method


class Lost(Method):
    name = "lost"

    def load(self, base, weights, *, dtype):
        return None
"""


def rows(seed: int, count: int = 8) -> list[dict[str, str]]:
    return [{"prompt": f"{seed} {place}:", "answer": f" {place * 7 % 5}"} for place in range(count)]


def task(name: str, seed: int = 0) -> Task:
    return Task(name, train=rows(seed), test=rows(seed, 3))


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_of_a_user.py").write_text(SOURCE)
    (tmp_path / "misplaced_of_a_user.py").write_text(MISPLACED)
    (tmp_path / "misplaced_too_of_a_user.py").write_text(MISPLACED_TOO)
    monkeypatch.syspath_prepend(tmp_path)


def test_method_by_its_path_is_settings_and_class():
    method = make_method({"name": "own_of_a_user.Decay", "strength": 0.5})
    assert type(method) is find_method("own_of_a_user.Decay")
    assert method.settings() == {"name": "own_of_a_user.Decay", "strength": 0.5}
    assert make_method(method.settings()).settings() == method.settings()
    assert Sequential().settings() == {"name": "sequential"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_of_a_user.Decoy", "cannot be imported (AttributeError"),
        ("no_such_package.Decay", "cannot be imported (ModuleNotFoundError"),
        ("misplaced_of_a_user.Lost", "Lost.penalties: it belongs to the Objective that `start` returns"),
        ("misplaced_too_of_a_user.Lost", "Lost.load: it belongs to the ModelForm that `form` names"),
        ("own_of_a_user.Stranger", "no subclass of seekr.methods.Method"),
        ("decay", "is no method; "),
        (7, "7 is no method"),
    ],
)
def test_method_that_is_none_is_one_line(name, said):
    with pytest.raises(InputError, match=r"method\.name") as raised:
        make_method({"name": name})
    assert said in str(raised.value)


def test_setting_that_an_own_method_lacks_is_named():
    with pytest.raises(InputError, match=r"method\.strenght: own_of_a_user\.Decay has no such setting.*strength"):
        make_method({"name": "own_of_a_user.Decay", "strenght": 0.5})


def test_run_by_path_is_learned_and_evaluated(tmp_path, tiny_model_folder):
    tasks = []
    for seed, name in enumerate(("one", "two")):
        files = {split: tmp_path / f"{name}-{split}.json" for split in ("train", "test")}
        for path in files.values():
            path.write_text(json.dumps(rows(seed)))
        tasks.append({"name": name, **{split: str(path) for split, path in files.items()}})
    config = {
        "model": str(tiny_model_folder),
        "tasks": tasks,
        "method": {"name": "own_of_a_user.Decay"},
        "training": {"use_cpu": True, "num_train_epochs": 1, "per_device_train_batch_size": 2},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    assert main(["learn", str(tmp_path / "run.yaml")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--cells", "seen"]) == 0
    line = json.loads((tmp_path / "run" / "stages" / "00-one" / "log.jsonl").read_text().splitlines()[0])
    assert line["decay"] > 0


def test_run_of_an_own_method_from_before_it_had_a_path_goes_on(tmp_path, tiny_model_folder):
    method = make_method({"name": "own_of_a_user.Decay"})
    common = {"model": tiny_model_folder, "output_dir": tmp_path / "run", "method": method}
    common |= {"training": {"use_cpu": True, "max_steps": 1}}
    (first,) = learn(tasks=[task("one")], **common).stages
    weights = (first.folder / "model" / "model.safetensors").stat()
    place = tmp_path / "run" / "run.json"
    record = json.loads(place.read_text())
    del record["sha256"]
    for settings in (record["config"]["method"], record["identity"]["method"]):
        settings["name"] = "decay"
    place.write_text(json.dumps(record))
    run = learn(tasks=[task("one"), task("two", 1)], **common)
    assert [stage.name for stage in run.stages] == ["one", "two"]
    assert (first.folder / "model" / "model.safetensors").stat() == weights, "it was learned again"


@pytest.mark.parametrize("accumulation", [2, 4])
def test_penalty_is_counted_once_a_step_however_it_is_cut(tmp_path, tiny_model_folder, accumulation):
    def weights(batch: int, steps: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"{batch}-{steps}"
        training = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "max_steps": 2}
        run = learn(
            model=tiny_model_folder,
            tasks=[task("one")],
            output_dir=folder,
            method={"name": "own_of_a_user.Decay", "strength": 3.0},
            training={"use_cpu": True, "optim": "sgd", "learning_rate": 1e-3, **training},
        )
        return _weights(run.folder / "stages" / "00-one" / "model")

    whole, cut = weights(8, 1), weights(8 // accumulation, accumulation)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-6)


def test_method_of_the_page_learns_two_tasks(tmp_path, tiny_model_folder, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (tmp_path / "my_methods.py").write_text(page.split('```python title="my_methods.py"\n')[1].split("```")[0])
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    run = learn(
        model=tiny_model_folder,
        tasks=[task("one"), task("two", 1)],
        output_dir=tmp_path / "run",
        method="my_methods.Tether",
        training={"use_cpu": True, "max_steps": 2},
    )
    lines = (run.folder / "stages" / "01-two" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["tether"] > 0 for line in lines] == [False, True]  # nothing has moved before a first step


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return dict(model.named_parameters())
