"""Small runs of every form of model, made once a session. Not to be written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from family_templates import tokenizer_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import seekr
from seekr import Run, Task

QUIET = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 4}
LORA = {"r": 4, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj", "up_proj"]}
TIED = {**LORA, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}
PROMPT = {"prompt_tokens": 3}
FORMS: dict[str, dict[str, Any]] = {
    "whole": {"method": {"name": "seekr", "replay_ratio": 0.2, "query_budget": 4, "attention_weight": 10}},
    "lora": {"method": "derpp", "lora": LORA},
    "tied": {"method": "sequential", "lora": TIED},
    "saved": {"method": "sequential", "lora": {**LORA, "modules_to_save": ["embed_tokens"], "use_dora": True}},
    "halves": {"method": "sequential", "lora": LORA, "dtype": "bfloat16"},
    "olora": {"method": "olora", "lora": LORA},
    "osf": {"method": "osf"},
    "ewc": {"method": {"name": "ewc", "fisher_samples": 2}},
    "joint": {"method": "joint"},
    "prompts": {"method": {"name": "progressive_prompts", **PROMPT}},
    "drawn": {"method": {"name": "lfpt5", **PROMPT}},
    "pool": {"method": {"name": "l2p", "pool_size": 3, "prompt_tokens": 2, "prompts_per_input": 2}},
    "likelihood": {"method": "sequential"},
}


def rows(name: str, first: int, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{name} {i * 7 % 10}=", "answer": f"{name}{i % 3}"} for i in range(first, first + count)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME/train.json and NAME/test.json of tasks a and b; new.json, rows of neither."""
    folder = tmp_path_factory.mktemp("secret-data")
    for name in "ab":
        (folder / name).mkdir()
        for split, first, count in (("train", 0, 14), ("test", 0, 5)):
            (folder / name / f"{split}.json").write_text(json.dumps(rows(name, first, count)))
    (folder / "new.json").write_text(json.dumps(rows("a", 3, 7)))
    return folder


@pytest.fixture(scope="session")
def base(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with one table for input and output, which samples if it is left to, and a card."""
    folder = tmp_path_factory.mktemp("secret-base") / "tiny-tied"
    config = LlamaConfig.from_pretrained(tiny_model_folder, tie_word_embeddings=True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=5.0)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: tiny\nlanguage: en\n---\n# A base\n")
    return folder


@pytest.fixture(scope="session")
def run_of(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The finished run of a form: tasks a and b."""

    @cache
    def make(form: str) -> Run:
        metric = {"metric": "likelihood"} if form == "likelihood" else {}
        tasks = [
            Task(name, train=data / name / "train.json", test=data / name / "test.json", max_new_tokens=4, **metric)
            for name in "ab"
        ]
        folder = tmp_path_factory.mktemp("secret-runs") / form
        with redirect_stderr(StringIO()):  # or the test that asks first would read what was said of its rows
            return seekr.learn(model=base, tasks=tasks, training=QUIET, output_dir=folder, max_length=40, **FORMS[form])

    return make


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on chat rows, by a template that takes a system prompt."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = tokenizer_of("Qwen 2.5")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    turns = [{"role": "user", "content": "Is it cold?"}, {"role": "assistant", "content": "yes"}]
    tasks = [Task("talk", train=[{"messages": turns}], test=[{"messages": turns}], max_new_tokens=8)]
    training = {"learning_rate": 5e-3, "max_steps": 20}
    return seekr.learn(
        model=folder / "model", tasks=tasks, method="sequential", training=training, output_dir=folder / "run"
    )
