"""A stage's folder, loaded without seekr: it answers as it was scored, and stops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import TRAINING
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, MixtralConfig, MixtralForCausalLM

from seekr import Run, Task
from seekr.methods import METHODS
from seekr.modeling.loading import load_model

pytestmark = pytest.mark.thorough

LORA = {
    "r": 8, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"],
}  # fmt: skip
OLORA = LORA | {"r": 4, "target_modules": LORA["target_modules"][:-1]}  # type: ignore[index]
SMALL = {"prompt_tokens": 3}
FORMS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "sequential with lora": {"lora": LORA},
    "olora": {"lora": OLORA},
    "osf": {},
    "progressive_prompts": {"method": {"name": "progressive_prompts", **SMALL}},
    "lfpt5": {"method": {"name": "lfpt5", **SMALL}},
}
"""Every form in which a stage is saved. The prompt pool of l2p needs its own class, as its docstring says."""

SAVED_ALIKE = sorted(METHODS.keys() - FORMS.keys() - {"l2p"})


@pytest.fixture(scope="module")
def old_end(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A model whose tokenizer got an end token that its generation settings do not know, and which they sample with."""
    folder = tmp_path_factory.mktemp("old-end") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the new token's weights: whether it is learned must not hang on the tests before
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config = GenerationConfig(
        eos_token_id=2, do_sample=True, temperature=5.0, top_k=3, repetition_penalty=4.0, max_length=9
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded_plainly(folder: Path) -> Any:
    """By transformers; an adapter by the words of its README.md, which have transformers take its own settings."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder)
    told = (folder / "README.md").read_text().partition("## To answer as it was scored")[2]
    (words,) = re.findall("```python\n(.*?)```", told, re.DOTALL)
    found: dict[str, Any] = {"folder": folder}
    exec(words, found)
    return found["model"]


def check(name: str, old_end: Path, learn: Callable[..., Run], task: Callable[..., Task], folder: Path) -> None:
    settings = {"method": name.split()[0], **FORMS.get(name, {})}
    training = {**TRAINING, "num_train_epochs": 8}
    tasks = [task(letter, max_new_tokens=12) for letter in "ab"]
    if name == "general_replay":  # which replays skills alone
        tasks.append(task("c", max_new_tokens=12, learn=False))
    run = learn(folder, tasks, model=old_end, training=training, max_length=40, **settings)
    learns_to_end = name not in ("osf", "hft", "progressive_prompts", "lfpt5")  # which leave the new token's weights
    ended: list[bool] = []
    for column, stage in enumerate(run.stages):
        if stage.model is None:  # a skill's, which is the base model's
            continue
        model, tokenizer = loaded_plainly(stage.model).eval(), AutoTokenizer.from_pretrained(stage.model)
        row = 1 if name == "joint" else column  # it has one stage, after all tasks
        lines = run.folder / "predictions" / f"{row}-{column}.jsonl"
        for line in map(json.loads, lines.read_text().splitlines()):
            ids = tokenizer(line["prompt"], return_tensors="pt").input_ids
            with torch.no_grad():
                found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)[0]
            new = found[ids.shape[1] :] if len(found) > ids.shape[1] else found
            assert tokenizer.decode(new, skip_special_tokens=True) == line["prediction"]
            assert tokenizer.eos_token_id in model.generation_config.eos_token_id
            assert len(new) == 12 or int(new[-1]) == tokenizer.eos_token_id
            ended.append(len(new) < 12)
    assert any(ended) or not learns_to_end


@pytest.mark.parametrize("name", FORMS)
def test_a_saved_folder_answers_as_it_was_scored_and_stops(
    name: str, old_end: Path, learn: Callable[..., Run], task: Callable[..., Task], tmp_path: Path
) -> None:
    """It never stopped: the base model's end token stood in generation_config.json; and it sampled."""
    check(name, old_end, learn, task, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED_ALIKE)
def test_so_does_that_of_every_method(
    name: str, old_end: Path, learn: Callable[..., Run], task: Callable[..., Task], tmp_path: Path
) -> None:
    check(name, old_end, learn, task, tmp_path / "run")


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}])
def test_a_saved_mixture_of_experts_answers_padded_prompts(
    lora: dict[str, Any] | None,
    tiny_model_folder: Path,
    learn: Callable[..., Run],
    task: Callable[..., Task],
    tmp_path: Path,
) -> None:
    """Its config.json asked for the balancing loss, which transformers takes of what it generates too, and fails."""
    tokenizer, folder = AutoTokenizer.from_pretrained(tiny_model_folder), tmp_path / "model"
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = learn(
        tmp_path / "run", [task("a"), task("b")], model=folder, method="sequential", lora=lora, training=TRAINING
    )
    for stage in run.stages:
        assert stage.model is not None
        log = (stage.model.parent / "log.jsonl").read_text()
        assert all("balance" in json.loads(line) for line in log.splitlines())  # of the second task too
        ids, mask = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        found = loaded_plainly(stage.model).eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=3)
        assert found.shape == (2, 7) or (found[:, -1] == tokenizer.eos_token_id).any()
        if lora is None:  # as a base it is what it was
            assert load_model(str(stage.model), dtype="float32", trainable=True).config.output_router_logits
