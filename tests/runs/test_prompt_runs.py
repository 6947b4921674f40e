"""Runs of the prompt methods: what a stage holds, what stays frozen, what a later start finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_runs import TRAINING, Stop, StopAt, digests
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import seekr.modeling.loading
from seekr import Run, Task
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.methods import make_method
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]

SETTINGS: dict[str, dict[str, Any]] = {
    "l2p": {"name": "l2p", "pool_size": 6, "prompt_tokens": 2, "prompts_per_input": 2},
    "progressive_prompts": {"name": "progressive_prompts", "prompt_tokens": 3},
    "lfpt5": {"name": "lfpt5", "prompt_tokens": 4, "pseudo_ratio": 0.5},
}


def weights(run: Run) -> list[dict[str, torch.Tensor]]:
    return [load_file(stage.model / "adapter_model.safetensors") for stage in run.stages if stage.model is not None]


def answers(run: Run, row: int, column: int) -> list[str]:
    lines = (run.folder / "predictions" / f"{row}-{column}.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


@pytest.fixture(scope="module")
def ending_model(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The tiny model, with the end token among its likely ones: rows that are drawn from it come to an end."""
    folder = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("ending") / "model")
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.2  # a direction that every state has
        model.lm_head.weight[2] = 0
        model.lm_head.weight[2, 0] = 0.6
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each method on tasks a and b that was never stopped. Not to be written to."""
    folder = tmp_path_factory.mktemp("prompts")
    return {name: prompt_run(learn, folder / name, name) for name in SETTINGS}


def prompt_run(learn: Learn, folder: Path, name: str, tasks: Any = "ab", **more: Any) -> Run:
    training = {**TRAINING, "weight_decay": 0.1 if name == "progressive_prompts" else 0.0, **more.pop("training", {})}
    options = {"method": SETTINGS[name], "max_length": 40, "cells": "seen", "training": training, **more}
    return learn(folder, tasks, **options)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("task_and_step", [(0, 3), (1, 3)])
def test_stopped_and_resumed_is_never_stopped(
    runs: dict[str, Run], learn: Learn, tmp_path: Path, name: str, task_and_step: tuple[int, int]
) -> None:
    with pytest.raises(Stop):
        prompt_run(learn, tmp_path / "run", name, callbacks=[StopAt(*task_and_step)])
    run = prompt_run(learn, tmp_path / "run", name)
    for files in ("stages/**/*.safetensors", "stages/*/log.jsonl", "predictions/*", "scores.json"):
        assert digests(run.folder, files) == digests(runs[name].folder, files)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stage_holds_an_adapter_alone_and_scores_the_same_again(
    runs: dict[str, Run], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(runs[name].folder, tmp_path / "run")
    for stage in runs[name].stages:
        assert stage.model is not None
        assert {path.name for path in stage.model.glob("*.safetensors")} == {"adapter_model.safetensors"}
        AutoTokenizer.from_pretrained(stage.model)
    before = digests(folder, "predictions/*")
    shutil.rmtree(folder / "predictions")
    evaluate(folder, cells="seen")
    assert digests(folder, "predictions/*") == before


@pytest.mark.parametrize("name", SETTINGS)
def test_more_tasks_at_the_end_and_on_top_of_a_finished_run(
    runs: dict[str, Run], learn: Learn, data_folder: Path, tmp_path: Path, name: str
) -> None:
    straight = prompt_run(learn, tmp_path / "straight", name, "abc", keep_stages="last")
    assert [stage.model is not None for stage in straight.stages] == [False, False, True]
    folder = shutil.copytree(runs[name].folder, tmp_path / "run")
    prompt_run(learn, folder, name, "abc", keep_stages="last")
    assert digests(folder) == digests(straight.folder)
    task = f"c={data_folder / 'c'},max_new_tokens=3"
    before = digests(runs[name].folder, "**/*")
    source, output = str(runs[name].folder), str(tmp_path / "onto")
    assert main(["learn", "--from", source, "--task", task, "--output-dir", output]) == 0
    assert digests(runs[name].folder, "**/*") == before
    assert weights(Run(tmp_path / "onto"))[-1].keys() == weights(straight)[-1].keys()
    for key, tensor in weights(straight)[-1].items():
        assert torch.equal(weights(Run(tmp_path / "onto"))[-1][key], tensor)


@pytest.mark.parametrize("name", SETTINGS)
def test_another_adapter_is_refused_before_any_model_is_loaded(
    learn: Learn, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seekr.modeling.loading, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=f"lora: {name} brings an adapter of its own") as error:
        prompt_run(learn, tmp_path / "run", name, lora={"r": 2})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SETTINGS)
def test_too_little_room_is_told_before_anything_is_written(learn: Learn, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match=r"max_length: 64 and the \d+ virtual tokens .* give max_length [56]\d or less"
    ):
        prompt_run(learn, tmp_path / "run", name, max_length=64)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SETTINGS)
def test_half_precision_learns_prompts_in_float32(learn: Learn, tmp_path: Path, name: str) -> None:
    with pytest.raises(Stop):
        prompt_run(learn, tmp_path / "run", name, dtype="bfloat16", callbacks=[StopAt(1, 3)])
    run = prompt_run(learn, tmp_path / "run", name, dtype="bfloat16")
    for tensors in weights(run):
        assert {tensor.dtype for tensor in tensors.values()} <= {torch.float32, torch.int64}
    assert digests(run.folder) == digests(prompt_run(learn, tmp_path / "straight", name, dtype="bfloat16").folder)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_skill_before_them(learn: Learn, task: MakeTask, tmp_path: Path, name: str) -> None:
    run = prompt_run(learn, tmp_path / "run", name, [task("c", learn=False), "a", "b"], cells="all")
    assert [stage.model is not None for stage in run.stages] == [False, True, True]
    assert run.scores.matrix[0] == run.scores.base
    if name != "progressive_prompts":
        return
    assert [tensors["places"].tolist() for tensors in weights(run)] == [[1], [2, 1]]
    for row in range(3):
        assert answers(run, row, 0) == answers(run, 0, 0)  # by the base model alone
    assert answers(run, 1, 1) == answers(run, 2, 1)
    fewer = prompt_run(learn, tmp_path / "other", name, "ab")
    assert [len(tensors["prompt_embeddings"]) for tensors in weights(fewer)] == [3, 6]


# What defines each method ------------------------------------------------------------------------------------------


def test_progressive_prompts_leaves_earlier_prompts_as_they_are(runs: dict[str, Run]) -> None:
    first, second = weights(runs["progressive_prompts"])
    assert first["prompt_embeddings"].shape == (3, 32)
    assert second["prompt_embeddings"].shape == (6, 32)
    assert torch.equal(second["prompt_embeddings"][3:], first["prompt_embeddings"])  # with weight decay
    assert not torch.equal(second["prompt_embeddings"][:3], first["prompt_embeddings"])


def test_only_the_prompts_of_a_method_are_trained(runs: dict[str, Run], tiny_model_folder: Path) -> None:
    for name, run in runs.items():
        method = make_method(SETTINGS[name])
        model = method.form.load_trainable(str(tiny_model_folder), run.stages[0].model, dtype="float32", lora=None)
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        names = {"embedding.weight", "keys"} if name == "l2p" else {"embedding.weight"}
        assert trained == {f"prompt_encoder.default.{key}" for key in names}
        base = AutoModelForCausalLM.from_pretrained(tiny_model_folder).state_dict()
        assert all(torch.equal(base[key], tensor) for key, tensor in model.get_base_model().state_dict().items())


def test_a_progressive_task_is_answered_as_on_the_day_it_was_learned(learn: Learn, tmp_path: Path) -> None:
    run = prompt_run(
        learn, tmp_path / "run", "progressive_prompts", "abc", cells="all", training={"learning_rate": 1.0}
    )
    for column in range(3):
        told = {tuple(answers(run, row, column)) for row in range(column, 3)}
        assert len(told) == 1
    # A task that is not learned yet has all prompts so far: other ones row by row.
    assert answers(run, 0, 2) != answers(run, 1, 2)
    assert run.scores.backward_transfer == 0


def test_a_task_is_answered_behind_its_own_prompt_and_the_earlier_ones(
    runs: dict[str, Run], tiny_model_folder: Path
) -> None:
    """Told its task, the last stage is what stood at the end of that task: one prompt less would be constant too."""
    method = make_method(SETTINGS["progressive_prompts"])
    first, second = (stage.model for stage in runs["progressive_prompts"].stages)
    ids = torch.tensor([[5, 9, 17, 4]])
    last = method.form.load(str(tiny_model_folder), second, dtype="float32")
    for task, folder in enumerate((first, second)):
        assert folder is not None
        then = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_folder), folder)
        method.form.tell_task(last, task)
        with torch.no_grad():
            assert torch.equal(last(input_ids=ids).logits, then(input_ids=ids).logits[:, -4:])


def test_all_prompts_of_a_stage_are_those_of_plain_peft(runs: dict[str, Run], tiny_model_folder: Path) -> None:
    ids = torch.tensor([[5, 9, 17, 4]])
    for name in ("progressive_prompts", "lfpt5"):
        folder = runs[name].stages[1].model
        assert folder is not None
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_folder), folder)
        ours = make_method(SETTINGS[name]).form.load(str(tiny_model_folder), folder, dtype="float32")
        with torch.no_grad():
            assert torch.equal(ours(input_ids=ids).logits, plain(input_ids=ids).logits[:, -4:])


def test_l2p_tasks_choose_different_prompts(runs: dict[str, Run]) -> None:
    first, second = weights(runs["l2p"])
    of_a, of_b = first["counts"], second["counts"] - first["counts"]
    assert int(of_a.sum()) == int(of_b.sum()) == 14 * 2
    assert not ((of_a > 0) & (of_b > 0)).any()
    unchosen = (of_b == 0).nonzero().flatten()
    pools = [tensors["prompt_pool"].view(6, 2, 32) for tensors in (first, second)]
    assert torch.equal(pools[0][unchosen], pools[1][unchosen])
    assert torch.equal(first["keys"][unchosen], second["keys"][unchosen])
    assert not torch.equal(pools[0], pools[1])


def test_l2p_tells_tasks_apart_when_it_is_not_told(learn: Learn, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Keys that were learned long enough: the test prompts of each task choose what its training rows chose."""
    run = prompt_run(learn, tmp_path / "run", "l2p", training={"num_train_epochs": 8})
    first, second = weights(run)
    of_task = [first["counts"] > 0, second["counts"] > first["counts"]]
    model = make_method(SETTINGS["l2p"]).form.load(str(tiny_model_folder), run.stages[1].model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    for name, mine in zip("ab", of_task, strict=True):
        ids = torch.tensor([tokenizer(f"{name} {digit}=")["input_ids"] for digit in range(10)])
        chosen, _ = model.choose(ids, torch.ones_like(ids), penalized=False)
        assert mine[chosen].all()


def test_lfpt5_replays_what_the_model_generated(learn: Learn, ending_model: Path, tmp_path: Path) -> None:
    run = prompt_run(learn, tmp_path / "run", "lfpt5", model=ending_model)
    memory = run.stages[0].memory
    assert memory is not None
    assert len(memory) > 0
    kinds = [json.loads(line)["kind"] for line in (run.stages[1].folder / "log.jsonl").read_text().splitlines()]
    assert kinds.count("replay") == min(4 * -(-len(memory) // 4), kinds.count("task"))  # four passes
    tokenizer = AutoTokenizer.from_pretrained(ending_model)
    rows = [tokenizer(f"a {i * 7 % 10}= a{i % 3}")["input_ids"] for i in range(14)]
    for sample in range(len(memory)):
        ids, labels = memory.encoded(sample).input_ids, memory.encoded(sample).labels
        assert ids[:-1].tolist() not in rows
        assert ids[-1] == labels[-1] == tokenizer.eos_token_id
        assert labels[0] == -100
        memory.logits(sample)


def test_lfpt5_goes_on_without_any_pseudo_sample(
    runs: dict[str, Run], learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prompt_run(learn, tmp_path / "run", "lfpt5", training={"max_steps": 2})
    assert "seekr: task a: 0 of 7 pseudo-samples were usable" in capsys.readouterr().err
    memories = [stage.memory for stage in run.stages]
    assert [memory is not None and len(memory) for memory in memories] == [0, 0]
    assert main(["memory", str(run.folder)]) == 0
    assert main(["status", str(run.folder)]) == 0
    assert main(["report", str(run.folder), "--output", str(tmp_path / "report.html")]) == 0
