"""Keys of other tools: what means the same here is named, not what is spelt alike; and a name that is named exists."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import TrainingArguments

from seekr.config.schema import Config, apply_override, make_config, make_tasks
from seekr.config.task_words import parse_task
from seekr.config.training_arguments import IN_FORCE, REFUSED, check_training, weight_changing
from seekr.data.task import Task
from seekr.errors import InputError, nearest
from seekr.methods import METHODS, make_method
from seekr.other_names import NEEDLESS, SAME, meant

OWN = {
    "": set(Config.model_fields),
    "training": {item.name for item in fields(TrainingArguments)},
    "lora": {item.name for item in fields(LoraConfig)},
    "tasks.N": {item.name for item in fields(Task)},
    "method": {item.name for kind in METHODS.values() for item in fields(kind) if item.init},
}
RAW: dict[str, Any] = {"model": "m", "tasks": [{"name": "a", "train": "t.json"}], "output_dir": "o"}


def told(raw: dict[str, Any]) -> str:
    def read() -> None:
        config = make_config({**RAW, **raw}, "c.yaml")
        make_tasks(config)
        make_method(config.method)
        check_training(config.training)

    with pytest.raises(InputError) as error:
        read()
    assert len(str(error.value)) <= 600
    return str(error.value)


@pytest.mark.parametrize("here", SAME)
def test_what_is_named_is_a_key(here: str) -> None:
    for place in here.partition(",")[0].partition(":")[0].split(" and "):
        section, _, key = place.rpartition(".")
        assert key in OWN[section]
        assert not OWN[section] & set(SAME[here].split())


def test_every_name_has_one_meaning() -> None:
    names = [name for table in (SAME, NEEDLESS) for names in table.values() for name in names.split()]
    assert len(names) == len(set(names))
    assert names == [name.lower().replace("-", "_") for name in names]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"max_seq_length": 9}, "c.yaml: unknown key 'max_seq_length'; here that is max_length"),
        ({"cutoff_len": 9}, "here that is max_length"),
        ({"evaluation_strategy": "no"}, "tasks are scored after each stage, see the key cells; leave it out"),
        ({"lora_target": "all"}, "here that is lora.target_modules"),
        ({"logging_dir": "x"}, "here that is training.report_to: tensorboard"),
        ({"learning_rate": 1e-4}, "here that is training.learning_rate"),
        ({"max_new_tokens": 3}, "here that is tasks.N.max_new_tokens"),
        ({"Max-Length": 3}, "did you mean 'max_length'?"),
        ({"model_name_or_path": "x"}, "here that is model"),
        ({"dataset": "x"}, "here that is tasks, a list of"),
        ({"metod": "x"}, "did you mean 'method'?"),
        ({"training": {"max_seq_length": 9}}, "training: unknown key 'max_seq_length'; here that is max_length, at"),
        ({"training": {"evaluation_strategy": "no"}}, "training: unknown key 'evaluation_strategy'; tasks are scored"),
        ({"training": {"logging_dir": "x"}}, "unknown key 'logging_dir'; here that is report_to: tensorboard"),
        ({"training": {"lr": 1}}, "training: unknown key 'lr'; here that is learning_rate"),
        ({"training": {"warmup_ratio": 0.1}}, "here that is warmup_steps, where a number below 1 is a share"),
        ({"training": {"model": "x"}}, "here that is model, at the top level"),
        ({"training": {"r": 8}}, "here that is lora.r"),
        ({"training": {"learning_rat": 1}}, "did you mean 'learning_rate'?"),
        ({"method": {"name": "replay", "buffer_size": 9}}, "replay has no such setting; here that is replay_ratio"),
        ({"method": {"name": "hft", "buffer_size": 9}}, "hft has no such setting; valid are average"),
        ({"method": {"name": "ewc", "buffer_size": 9}}, "ewc has no such setting; valid are"),
        ({"tasks": [{"name": "a", "path": "x"}]}, "tasks.0: unknown key 'path'; here that is train"),
        ({"tasks": [{"name": "a", "train": "x", "epochs": 1}]}, "here that is num_train_epochs"),
        ({"tasks": [{"name": "a", "train": "x", "lr": 1}]}, "here that is training.learning_rate"),
        ({"tasks": [{"name": "a", "train": "x", "seed": 1}]}, "here that is seed, at the top level"),
        ({"tasks": [{"name": "a", "train": "x", "validation": "y"}]}, "here that is eval"),
        ({"q" * 5000: 1}, "valid are"),
        ({"training": {"q" * 5000: 1}}, "valid are"),
    ],
)  # fmt: skip
def test_keys_of_other_tools(raw: dict[str, Any], message: str) -> None:
    assert message in told(raw)


@pytest.mark.parametrize(
    ("key", "here"), [("fp16_opt_level", "bf16: true, or training.fp16: true"), ("template", "chat_template, the file")]
)
def test_keys_that_were_answered_by_the_nearest_spelling(key: str, here: str) -> None:
    """`fp16_opt_level` was answered with fp16_full_eval, `template` with a list of all keys."""
    for raw in ({key: "x"}, {"training": {key: "x"}}, {"tasks": [{"name": "a", "train": "x", key: "x"}]}):
        assert f"unknown key {key!r}; here that is " in told(raw)
        assert here in told(raw)


def test_overrides_and_the_task_of_a_command_line_too() -> None:
    with pytest.raises(InputError, match=r"unknown key 'lr'; here that is training\.learning_rate"):
        apply_override({}, "lr=1e-4")
    with pytest.raises(InputError, match="unknown key 'max_samples'; here that is train_limit"):
        parse_task("a=b,max_samples=3")


def test_the_nearest_is_of_the_place_that_was_meant() -> None:
    assert meant("learning_rte", OWN["training"], "training") == "did you mean 'learning_rate'?"
    assert nearest("q", [f"name_{n:03d}" for n in range(100)]).endswith(" more")
    assert nearest("q", ["a1", "b2"]) == "valid are a1, b2"


@pytest.mark.parametrize(("key", "values"), IN_FORCE.items())
def test_what_is_done_anyway_may_be_asked_for(key: str, values: tuple[Any, ...]) -> None:
    """`save_strategy: steps` was refused, which is what is done."""
    assert key in REFUSED
    for value in values:
        assert check_training({key: value, "learning_rate": 1e-3}) == {"learning_rate": 1e-3}
    with pytest.raises(InputError, match=f"training.{key} cannot be set here"):
        check_training({key: "other"})


def test_what_is_done_anyway_makes_no_other_run(tmp_path: Path) -> None:
    plain = weight_changing(check_training({"learning_rate": 1e-3}))
    assert weight_changing(check_training({"learning_rate": 1e-3, "save_strategy": "steps"})) == plain


@pytest.mark.parametrize("key", ["gpus", "formatting_func", "response_template", "stage"])
def test_a_name_that_is_like_none_is_told_what_there_is(key: str) -> None:
    """Parts of names were taken for near ones: did you mean 'chat_template_kwargs'?, of gpus."""
    assert meant(key, Config.model_fields).startswith("valid are ")
    assert nearest("outputdir", Config.model_fields) == "did you mean 'output_dir'?"
    assert nearest("Model", Config.model_fields) == "did you mean 'model'?"


@pytest.mark.parametrize("key", ["push_to_hub", "load_best_model_at_end", "resume_from_checkpoint", "eval_steps"])
def test_a_key_of_training_that_cannot_be_set_is_not_sent_there(key: str) -> None:
    assert meant(key, Config.model_fields) == REFUSED[key]
    with pytest.raises(InputError, match="cannot be set here"):
        check_training({key: 1})
