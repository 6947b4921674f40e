"""Test rows answered by vLLM: the answers of transformers, one engine a model, and what is refused."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launches
import numpy as np
import pytest
import torch

from seekr import Run
from seekr.errors import InputError, RunError
from seekr.runs.learn import evaluate

DOUBLES = Path(__file__).parent / "doubles"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """vLLM's double is there; gives what its engines were told, "gone" for the end of each."""
    path = tmp_path / "engines.jsonl"
    monkeypatch.syspath_prepend(str(DOUBLES))  # it is looked for here, and imported by processes of its own alone
    monkeypatch.setenv("PYTHONPATH", f"{DOUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ENGINES", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def predictions(run: Run) -> dict[str, list[str]]:
    """The answers of each file."""
    files = sorted((run.folder / "predictions").iterdir())
    return {file.name: [json.loads(line)["prediction"] for line in file.read_text().splitlines()] for file in files}


def answered_by(run: Run) -> set[str | None]:
    files = (run.folder / "predictions").iterdir()
    return {json.loads(line).get("by") for file in files for line in file.read_text().splitlines()}


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
    assert len({answer for answers in predictions(found).values() for answer in answers}) > 3
    assert (answered_by(found), answered_by(expected)) == ({"vllm 0.0"}, {None})
    assert "vllm" not in sys.modules  # it would change how torch computes
    assert found.scores.matrix == expected.scores.matrix
    told = engines()
    assert [one == "gone" for one in told] == [False, True] * (len(told) // 2)  # never two at once, none left behind
    for one in told[::2]:
        assert (one["enforce_eager"], one["skip_tokenizer_init"], one["dtype"]) == (True, True, "float32")
        assert one.get("max_lora_rank") == (16 if "lora" in more else None)


def test_likelihoods_are_measured_by_transformers(
    learn: Callable[..., Run],
    task: Callable[..., Any],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And that model is gone when an engine starts, which takes what memory it finds."""
    from seekr.evaluation import vllm_engine
    from seekr.modeling.loading import load_model

    alive: list[weakref.ref[Any]] = []

    def load(*args: Any, **more: Any) -> Any:
        model = load_model(*args, **more)
        alive.append(weakref.ref(model))
        return model

    def start(*args: Any, **more: Any) -> Any:
        gc.collect()
        assert not any(reference() for reference in alive)
        return answering(*args, **more)

    answering = vllm_engine.answering
    tasks = [task("a"), task("b", metric="likelihood")]
    expected = learn(tmp_path / "one", tasks, method="sequential")
    with monkeypatch.context() as patched:
        patched.setattr(vllm_engine, "answering", start)
        patched.setattr("seekr.modeling.loading.load_model", load)
        found = learn(tmp_path / "other", tasks, method="sequential", vllm={})
    assert alive
    assert found.scores == expected.scores
    assert len(engines()) == 2 * 2  # after each task, for `a` alone
    lines = [json.loads(line) for line in (found.folder / "predictions" / "1-1.jsonl").read_text().splitlines()]
    assert all("by" not in line and line["log_likelihood"] < 0 for line in lines)


def learned_by_two(model: Path, data: Path, folder: Path, **environment: str) -> launches.Outcome:
    """A run of one task, answered by vLLM, on two processes."""
    config = launches.config_of(model, data, folder / "run", "a", method="sequential")
    path = launches.write(folder / "c.yaml", {**config, "vllm": {}})
    return launches.learn(path, path, words=["training.per_device_train_batch_size=4"], **environment)


def test_two_processes_answer_as_one(
    tiny_model_folder: Path, data_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    found = learned_by_two(tiny_model_folder, data_folder, tmp_path)
    assert [status for status, _ in found] == [0, 0], found
    two = predictions(Run(tmp_path / "run"))
    assert len(engines()) == 4
    for file in (tmp_path / "run" / "predictions").iterdir():
        file.unlink()
    evaluate(tmp_path / "run", by="transformers")
    assert predictions(Run(tmp_path / "run")) == two
    assert len(engines()) == 4


def test_a_process_whose_engine_fails_takes_the_others_with_it(
    tiny_model_folder: Path, data_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    found = learned_by_two(tiny_model_folder, data_folder, tmp_path, ENGINE_FAILS="answer")
    assert [status for status, _ in found] == [1, 1], found
    assert sum("the engine failed" in text for _, text in found) == 1
    assert [stage.name for stage in Run(tmp_path / "run").stages] == ["a"]


@pytest.mark.parametrize(
    ("fails", "why"),
    [("start", "no memory is left"), ("answer", "the device is gone"), ("die", "its process ended with status 3")],
)
def test_an_engine_that_fails_costs_nothing_that_was_learned(
    learn: Callable[..., Run],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    why: str,
) -> None:
    monkeypatch.setenv("ENGINE_FAILS", fails)
    with pytest.raises(RunError, match=f"vllm: the engine failed with .*: {why}; .*vllm=null"):
        learn(tmp_path / "run", "a", vllm={})
    assert [stage.name for stage in Run(tmp_path / "run").stages] == ["a"]
    assert fails != "answer" or engines()[-1] == "gone"
    assert learn(tmp_path / "run", "a").scores.matrix[0][0] is not None


def test_an_interrupted_run_leaves_no_engine_behind(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from seekr.evaluation import vllm_engine

    monkeypatch.setenv("ENGINE_FAILS", "hang")
    monkeypatch.setattr(vllm_engine, "_IMPATIENCE", 0.1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    settings: dict[str, Any] = {"settings": {}, "dtype": "float32", "length": 9, "device": torch.device("cpu")}

    def interrupt() -> None:
        while len(engines()) < 2:
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def answer() -> None:
        with vllm_engine.answering(str(tiny_model_folder), None, tokenizer, **settings) as generate:
            generate([np.arange(5, 8)], 2, lambda _: None)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        answer()
    with pytest.raises(ProcessLookupError):
        os.kill(engines()[1], 0)


def test_an_engine_has_the_device_of_its_process(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from seekr.evaluation import vllm_engine

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    monkeypatch.setattr(vllm_engine, "process_count", lambda: 2)
    for device, expected in (("cpu", None), ("cuda:1", [1])):
        with vllm_engine.answering(
            str(tiny_model_folder),
            None,
            tokenizer,
            settings={},
            dtype="float32",
            length=9,
            device=torch.device(device),
        ):
            pass
        assert engines()[-2].get("device_ids") == expected


def test_an_answer_ends_at_any_token_that_ends_it(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    """The generation settings of a model may name several: end of turn beside end of text."""
    from transformers import AutoTokenizer, GenerationConfig

    from seekr.evaluation.vllm_engine import answering
    from seekr.modeling.generation import answer_text, generate_answers
    from seekr.modeling.loading import load_model

    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [np.arange(5, 5 + length) for length in (2, 3, 7)]
    free = generate_answers(load_model(str(folder), dtype="float32"), tokenizer, prompts, max_new_tokens=6)
    ends = [2, int(tokenizer(free[0][2], add_special_tokens=False)["input_ids"][0])]
    GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    expected = generate_answers(load_model(str(folder), dtype="float32"), tokenizer, prompts, max_new_tokens=6)
    assert expected[0] != free[0]
    with answering(
        str(folder), None, tokenizer, settings={}, dtype="float32", length=13, device=torch.device("cpu")
    ) as generate:
        answers = generate(prompts, 6, lambda _: None)
        assert [answer_text(answer, tokenizer) for answer in answers] == expected
        assert generate([], 6, lambda _: None) == []


@pytest.mark.parametrize(
    ("vllm", "more", "message"),
    [
        ({"enforce_eagre": True}, {}, "vllm: unknown key 'enforce_eagre'; did you mean 'enforce_eager'"),
        ({"model": "x"}, {}, "vllm.model is set by seekr: the model of each stage is answered with; leave it out"),
        ({}, {"method": "l2p"}, "vllm: l2p answers with prompts of its own"),
        ({}, {"lora": {"use_dora": True}}, "vllm: vLLM does not yet support DoRA.; mend that, or leave the key out"),
        ({}, {"lora": {"trainable_token_indices": [3]}}, "vllm: it does not read adapters with trainable_token_ind"),
        ({"gpu_memory_utilization": 2.0}, {}, "vllm: GPU memory utilization must be less than 1.0; mend that"),
        ({"max_model_len": 3}, {}, "vllm.max_model_len: 3 are not enough for a prompt and its answer, which take 7"),
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


def test_adapters_in_full_precision_are_refused_on_a_gpu(
    learn: Callable[..., Run], engines: Callable[[], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_ON_GPU", "1")
    with pytest.raises(InputError, match=r"on a GPU its adapters have 16 bits; say vllm=\{dtype: bfloat16\}"):
        learn(tmp_path / "run", vllm={}, lora={"r": 2})


@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), [("olora", [8, 16]), ("osf", [None, None])])
def test_stages_of_methods_with_weights_of_their_own(
    learn: Callable[..., Run], engines: Callable[[], list[Any]], tmp_path: Path, method: str, ranks: list[Any]
) -> None:
    expected = learn(tmp_path / "one", method=method)
    found = learn(tmp_path / "other", method=method, vllm={})
    assert predictions(found) == predictions(expected)
    assert [one.get("max_lora_rank") for one in engines()[::2]] == ranks


def test_several_devices_for_each_of_several_processes(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seekr.evaluation.vllm_engine import check_vllm

    def check(devices: int) -> str:
        settings = {"tensor_parallel_size": devices}
        return check_vllm(settings, str(tiny_model_folder), dtype="float32", length=9, lora=None, rank=0)

    assert check(2) == "0.0"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check(1) == "0.0"
    with pytest.raises(InputError, match=r"vllm\.tensor_parallel_size: each of 2 processes"):
        check(2)


def test_without_the_package(learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr.evaluation.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(InputError, match="vllm: the package vllm is not installed; install it"):
        learn(tmp_path / "run", vllm={})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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
    expected = learn(tmp_path / "one", "a", cells="all", **settings)
    found = learn(tmp_path / "other", "a", cells="all", **settings, vllm={"enforce_eager": True})
    assert len({answer for answers in predictions(expected).values() for answer in answers}) > 2
    assert predictions(found) == predictions(expected)
