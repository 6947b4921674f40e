"""Test rows answered by vLLM: the answers of transformers, one engine a model, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import launches
import numpy as np
import pytest
import torch
from short_forms import generate_answers
from two_processes import results_of

from seekr import Run
from seekr.distributed.processes import connect, process_index
from seekr.errors import InputError, RunError
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

DOUBLES = Path(__file__).parent / "doubles"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """vLLM's double is there; gives what its engines were told, "gone" for the end of each."""
    path = tmp_path / "engines.jsonl"
    monkeypatch.syspath_prepend(str(DOUBLES))  # it is looked for here, and imported by processes of its own alone
    monkeypatch.setenv("PYTHONPATH", f"{DOUBLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ENGINES", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def predictions(run: Run, task: str | None = None) -> dict[str, list[str]]:
    """The answers of each file, or of the files of a task."""
    return {file.name: [row["prediction"] for row in rows] for file, rows in _answered(run, task)}


def answered_by(run: Run, task: str) -> set[str | None]:
    return {row.get("by") for _, rows in _answered(run, task) for row in rows}


def _answered(run: Run, task: str | None) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    for file in sorted((run.folder / "predictions").iterdir()):
        if task is None or run.scores.tasks[int(file.stem.split("-")[1])] == task:
            yield file, [json.loads(line) for line in file.read_text().splitlines()]


ADAPTER = {"lora": {"r": 9, "target_modules": ["q_proj", "v_proj"]}}


@pytest.mark.parametrize(
    ("more", "ranks"),
    [
        ({"method": "seekr", "cells": "all"}, [None] * 3),
        ({"method": "sequential", **ADAPTER}, [16, 16]),
        pytest.param({"method": "olora", "cells": "all"}, [None, 8, 16], marks=pytest.mark.slow),
        pytest.param({"method": "osf", "cells": "all"}, [None] * 3, marks=pytest.mark.slow),
    ],
    ids=["whole models", "adapters", "olora", "osf"],
)
def test_answers_are_those_of_transformers(
    learn: Callable[..., Run],
    task: Callable[..., Any],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    more: dict[str, Any],
    ranks: list[int | None],
) -> None:
    """One engine a model and none beside another; the likelihoods of a task are measured by transformers."""
    training = {"learning_rate": 3e-2, "per_device_train_batch_size": 4, "num_train_epochs": 2}
    tasks = [task("a"), task("b", metric="likelihood")]
    expected = learn(tmp_path / "one", tasks, training=training, **more)
    assert engines() == []
    found = learn(tmp_path / "other", tasks, training=training, vllm={"enforce_eager": True}, **more)
    assert predictions(found, "a") == predictions(expected, "a")
    assert len({answer for answers in predictions(found, "a").values() for answer in answers}) > 2
    assert (answered_by(found, "a"), answered_by(expected, "a")) == ({"vllm 0.0"}, {None})
    assert answered_by(found, "b") == {None}
    assert "vllm" not in sys.modules  # it would change how torch computes
    assert found.scores == expected.scores
    told = engines()
    assert [one == "gone" for one in told] == [False, True] * len(ranks)  # never two at once, none left
    assert [one.get("max_lora_rank") for one in told[::2]] == ranks
    assert {(one["enforce_eager"], one["skip_tokenizer_init"], one["dtype"]) for one in told[::2]} == {
        (True, True, "float32")
    }


def test_two_processes_answer_as_one(
    tiny_model_folder: Path, data_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    config = launches.config_of(tiny_model_folder, data_folder, tmp_path / "run", "a", method="sequential")
    path = launches.write(tmp_path / "c.yaml", {**config, "vllm": {}})
    found = launches.learn(path, path, words=["training.per_device_train_batch_size=4"])
    assert [status for status, _ in found] == [0, 0], found
    two = predictions(Run(tmp_path / "run"))
    assert len(engines()) == 4
    for file in (tmp_path / "run" / "predictions").iterdir():
        file.unlink()
    evaluate(tmp_path / "run", by="transformers")
    assert predictions(Run(tmp_path / "run")) == two
    assert len(engines()) == 4


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


def test_an_answer_ends_at_any_token_that_ends_it(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation settings of a model may name several: end of turn beside end of text. Of several devices the
    engine has that of its process."""
    from transformers import AutoTokenizer, GenerationConfig

    from seekr.data.tokenizing import decode
    from seekr.evaluation import vllm_engine
    from seekr.evaluation.vllm_engine import answering
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
        assert [decode(answer.ids, tokenizer, special=False) for answer in answers] == expected
        assert generate([], 6, lambda _: None) == []
    monkeypatch.setattr(vllm_engine, "process_count", lambda: 2)
    with answering(str(folder), None, tokenizer, settings={}, dtype="float32", length=9, device=torch.device("cuda:1")):
        pass
    assert [told.get("device_ids") for told in engines()[::2]] == [None, [1]]


@pytest.mark.parametrize(
    ("vllm", "more", "message"),
    [
        ({}, {"lora": {"r": 2}}, "on a GPU its adapters have 16 bits; say vllm={dtype: bfloat16}"),
        ({"tensor_parallel_size": 2}, {}, "vllm.tensor_parallel_size: each of 2 processes"),
        ({}, {}, "vllm: the package vllm is not installed; install it"),
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
    monkeypatch: pytest.MonkeyPatch,
    vllm: Any,
    more: dict[str, Any],
    message: str,
) -> None:
    if "on a GPU" in message:
        monkeypatch.setenv("ENGINE_ON_GPU", "1")
    elif "processes" in message:
        monkeypatch.setattr("seekr.evaluation.vllm_engine.process_count", lambda: 2)
    elif "installed" in message:
        monkeypatch.setattr("seekr.evaluation.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        learn(tmp_path / "run", vllm=vllm, **more)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def answered_by_engine(model: Path, **settings: Any) -> Any:
    """The engine of a model, with the model's own tokenizer."""
    from transformers import AutoTokenizer

    from seekr.evaluation.vllm_engine import answering

    tokenizer, cpu = AutoTokenizer.from_pretrained(model), torch.device("cpu")
    return answering(str(model), None, tokenizer, settings=settings, dtype="float32", length=13, device=cpu)


def test_an_interrupt_kills_an_engine_that_hangs(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no part in Ctrl-C itself, and would keep its device's memory for good."""
    monkeypatch.setenv("ENGINE_FAILS", "hang")
    monkeypatch.setattr("seekr.evaluation.vllm_engine._TIMEOUT_AFTER_FAILURE", 0.5)

    def interrupt() -> None:
        while not engines() or not isinstance(engines()[-1], int):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), answered_by_engine(tiny_model_folder) as generate:
        generate([np.arange(5, 8)], 6, lambda _: None)
    with pytest.raises(ProcessLookupError):
        os.kill(engines()[-1], 0)


def test_an_engine_that_fails_in_one_process_ends_the_others(
    tiny_model_folder: Path, engines: Callable[[], list[Any]], tmp_path: Path
) -> None:
    """They would wait for its answers. Each has its own engine, and none is left."""
    (tmp_path / "model").symlink_to(tiny_model_folder)
    errors = results_of(__file__, tmp_path)
    assert all("process 1 of 2: vllm: the engine failed" in error and "the device is gone" in error for error in errors)
    assert engines().count("gone") == len(engines()) / 2 == 2


def work(folder: Path) -> None:
    """What each of two processes does, of which the second has an engine that fails."""
    connect()
    rank = process_index()
    if rank:
        os.environ["ENGINE_FAILS"] = "answer"
    with pytest.raises(RunError) as caught, answered_by_engine(folder / "model") as generate:
        generate([np.arange(5, 8)] * 4, 6, lambda _: None)
    torch.save(str(caught.value), folder / f"{rank}.pt")


def test_a_model_that_measured_likelihoods_is_gone_when_an_engine_starts(
    learn: Callable[..., Run],
    task: Callable[..., Any],
    engines: Callable[[], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine takes what memory it finds."""
    from seekr.evaluation import vllm_engine
    from seekr.runs import answering

    measured: list[weakref.ref[Any]] = []
    alive: list[int] = []
    answer_by, worker = answering.answer_by, vllm_engine._worker

    def seen(spec: Any, model: Any) -> Any:
        measured.append(weakref.ref(model))
        return answer_by(spec, model)

    def counted(**options: Any) -> Any:
        alive.append(sum(one() is not None for one in measured))
        return worker(**options)

    monkeypatch.setattr(answering, "answer_by", seen)
    monkeypatch.setattr(vllm_engine, "_worker", counted)
    learn(tmp_path / "run", [task("a"), task("b", metric="likelihood")], method="sequential", cells="all", vllm={})
    assert len(measured) == 3  # before any task, and after each
    assert alive == [0] * 4  # the check of the settings, and an engine for each of the same models


def test_one_process_may_spread_an_engine_over_devices(
    tiny_model_folder: Path, engines: Callable[[], list[Any]]
) -> None:
    """Of several processes each has one device, and it is refused."""
    from seekr.evaluation.vllm_engine import check_vllm

    settings = {"tensor_parallel_size": 2}
    assert check_vllm(settings, str(tiny_model_folder), dtype="float32", length=13, lora=None, rank=0) == "0.0"
    with answered_by_engine(tiny_model_folder, **settings) as generate:
        assert len(generate([np.arange(5, 8)], 6, lambda _: None)) == 1
    assert engines()[0]["tensor_parallel_size"] == 2


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


if __name__ == "__main__":
    work(Path(sys.argv[1]))
