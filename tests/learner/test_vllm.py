"""Test rows answered by vLLM: the answers of transformers, one engine a model, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import launches
import pytest

import seekr
from seekr import Run
from seekr.errors import InputError, RunError

DOUBLES = Path(__file__).parent / "doubles"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """vLLM's double is there; gives what its engines were told, "gone" for the end of each."""
    monkeypatch.syspath_prepend(str(DOUBLES))
    monkeypatch.setenv("ENGINES", str(tmp_path / "engines.jsonl"))
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    path = tmp_path / "engines.jsonl"
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def predictions(run: Run) -> dict[str, str]:
    """The files of answers, by name."""
    return {path.name: path.read_text() for path in sorted((run.folder / "predictions").iterdir())}


@pytest.mark.parametrize(
    "more",
    [{"cells": "all"}, {"method": "sequential", "lora": {"r": 9, "target_modules": ["q_proj", "v_proj"]}}],
    ids=["whole models", "adapters"],
)
def test_answers_are_those_of_transformers(
    learn: Callable[..., Run], engines: Callable[[], list[Any]], tmp_path: Path, more: dict[str, Any]
) -> None:
    training = {"learning_rate": 3e-2, "per_device_train_batch_size": 4, "num_train_epochs": 2}
    expected = learn(tmp_path / "one", training=training, **more)
    assert engines() == []
    found = learn(tmp_path / "other", training=training, vllm={"enforce_eager": True}, **more)
    assert predictions(found) == predictions(expected)
    assert (
        len({json.loads(line)["prediction"] for text in predictions(found).values() for line in text.split("\n")[:-1]})
        > 3
    )
    assert found.scores.matrix == expected.scores.matrix
    told = engines()
    assert [one == "gone" for one in told] == [False, True] * (len(told) // 2)  # never two at once, none left behind
    for one in told[::2]:
        assert (one["enforce_eager"], one["skip_tokenizer_init"], one["dtype"]) == (True, True, "float32")
        assert one.get("max_lora_rank") == (16 if "lora" in more else None)


def test_two_processes_answer_as_one(
    tiny_model_folder: Path, data_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run", "a", method="sequential")
    path = launches.write(tmp_path / "c.yaml", {**config, "vllm": {}})
    by_two = ["training.per_device_train_batch_size=4"]
    environment = {"PYTHONPATH": f"{DOUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    found = launches.learn(path, path, words=by_two, **environment)
    assert [status for status, _ in found] == [0, 0], found
    two = predictions(Run(tmp_path / "run"))
    assert len(engines()) == 4
    for file in (tmp_path / "run" / "predictions").iterdir():
        file.unlink()
    seekr.learner.evaluate(tmp_path / "run")
    assert predictions(Run(tmp_path / "run")) == two


def test_an_engine_that_fails_costs_nothing_that_was_learned(
    learn: Callable[..., Run],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device\nis gone")

    with pytest.raises(RunError, match=r"vllm: the engine did not start with .*: GPU memory utilization.*vllm=null"):
        learn(tmp_path / "run", "a", vllm={"gpu_memory_utilization": 2.0})
    monkeypatch.setattr("vllm.LLM.generate", dies)
    with pytest.raises(RunError, match=r"vllm: the engine did not answer with .*: the device is gone.*vllm=null"):
        learn(tmp_path / "run", "a", vllm={})
    assert engines()[-1] == "gone"
    assert [stage.name for stage in Run(tmp_path / "run").stages] == ["a"]
    assert learn(tmp_path / "run", "a").scores.matrix[0][0] is not None


@pytest.mark.parametrize(
    ("vllm", "more", "message"),
    [
        ({"enforce_eagre": True}, {}, "vllm: unknown key 'enforce_eagre'; did you mean 'enforce_eager'"),
        ({"model": "x"}, {}, "vllm.model is set by seekr: the model of each stage is answered with; leave it out"),
        ({}, {"method": "l2p"}, "vllm: l2p answers with prompts of its own"),
        ({}, {"lora": {"use_dora": True}}, "vllm: it does not read adapters with use_dora"),
        ({}, {"lora": {"init_lora_weights": "pissa"}}, "vllm: it does not read adapters with init_lora_weights: pissa"),
        ([], {}, "vllm: input should be a valid dictionary, not []"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    learn: Callable[..., Run],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    vllm: Any,
    more: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError) as caught:
        learn(tmp_path / "run", vllm=vllm, **more)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_several_devices_for_each_of_several_processes(
    engines: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seekr.methods import Sequential
    from seekr.vllm_engine import check_vllm

    check_vllm({"tensor_parallel_size": 2}, Sequential(), None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_vllm({"tensor_parallel_size": 1}, Sequential(), None)
    with pytest.raises(InputError, match=r"vllm\.tensor_parallel_size: each of 2 processes"):
        check_vllm({"tensor_parallel_size": 2}, Sequential(), None)


def test_without_the_package(learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(InputError, match="vllm: the package vllm is not installed; install it"):
        learn(tmp_path / "run", vllm={})
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": "all-linear"}], ids=["whole models", "adapters"])
def test_by_vllm_itself(
    learn: Callable[..., Run], tiny_model_folder: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    # Its kernels have no heads of 8.
    config = AutoConfig.from_pretrained(tiny_model_folder, hidden_size=256, head_dim=64)
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    settings = {"model": tmp_path / "model", "method": "sequential", "lora": lora}
    settings["training"] = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 3}
    expected = learn(tmp_path / "one", **settings)
    found = learn(tmp_path / "other", **settings, vllm={"enforce_eager": True})
    assert len(set(predictions(expected).values())) == 3
    assert predictions(found) == predictions(expected)
