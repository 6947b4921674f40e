"""Tokens, keys and passwords among the settings are refused before anything is written, and not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seekr.cli.main import main
from seekr.config.schema import load_config
from seekr.config.secrets import check_secrets, without_secrets
from seekr.errors import InputError

TOKEN = "hf_" + "aB3" * 10


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"training": {"hub_token": "x"}}, "training.hub_token"),
        ({"vllm": {"hf_token": "x"}}, "vllm.hf_token"),
        ({"vllm": {"hf_overrides": {"api_key": 7}}}, "vllm.hf_overrides.api_key"),
        ({"training": {"lr_scheduler_kwargs": {"password": "x"}}}, "training.lr_scheduler_kwargs.password"),
        ({"training": {"project": f"mine {TOKEN}"}}, "training.project"),
        ({"tasks": [{"name": "a", "train": "https://me:pw@example.org/rows"}]}, "tasks.0.train"),
        ({"chat_template_kwargs": {"client_secret": "x"}}, "chat_template_kwargs.client_secret"),
        ({"chat_template_kwargs": {"note": "sk-" + "0" * 30}}, "chat_template_kwargs.note"),
        ({"chat_template_kwargs": {"note": "AKIA" + "A7" * 8}}, "chat_template_kwargs.note"),
        ({"model": "ghp_" + "a" * 36}, "model"),
        ({"chat_template_kwargs": {"passphrase": "x"}}, "chat_template_kwargs.passphrase"),
        ({"chat_template_kwargs": {"note": "xoxb-" + "1" * 12}}, "chat_template_kwargs.note"),
        ({"chat_template_kwargs": {"note": "glpat-" + "a" * 20}}, "chat_template_kwargs.note"),
        ({"chat_template_kwargs": {TOKEN: 1}}, "chat_template_kwargs.(…)"),
        ({"tasks": [{"name": "a", "train": "https://example.org/rows?token=" + "a" * 9}]}, "tasks.0.train"),
        ({"tasks": [{"name": "a", "train": "https://abcdefgh@example.org/rows"}]}, "tasks.0.train"),
    ],
)
def test_secret_is_named_by_its_key_and_not_repeated(settings: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as raised:
        check_secrets(settings, "run.yaml")
    assert str(raised.value).startswith(f"run.yaml: {key} ")
    assert TOKEN not in str(raised.value)
    assert "pw@" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"training": {"hub_token": None, "include_num_input_tokens_seen": True}},
        {"chat_template_kwargs": {"eos_token": "</s>", "bos_token": "<s>", "max_tokens": 5, "secretary": "Ann"}},
        {"lora": {"trainable_token_indices": [1], "modules_to_save": ["key"]}},
        {"model": "org/hf_model", "tasks": [{"name": "token", "train": "/data/sk-learn/rows.json"}]},
        {"vllm": {"hf_token": False}},
    ],
)
def test_what_only_looks_alike_is_taken(settings: dict[str, object]) -> None:
    check_secrets(settings, "run.yaml")


def test_token_in_a_file_or_an_override_ends_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = {"model": "m", "tasks": [{"name": "a", "train": "a.json"}], "output_dir": "run"}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(raw))
    load_config(file)
    assert main(["learn", str(file), f"training.run_name={TOKEN}", "--dry-run"]) == 2
    assert main(["learn", str(file), "vllm.hf_token=abc"]) == 2
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert said.err.count("\n") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_secret_of_the_environment_is_none_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "correct-horse")
    with pytest.raises(InputError, match=r"training\.run_name holds what the environment has as a secret"):
        check_secrets({"training": {"run_name": "mine correct-horse"}}, "run.yaml")
    monkeypatch.setenv("PWD", str(Path.cwd()))
    monkeypatch.setenv("DB_PASSWORD", str(Path.cwd()))
    check_secrets({"model": str(Path.cwd() / "model")}, "run.yaml")
    monkeypatch.setenv("WANDB_API_KEY", "mine")  # too short to be told from words
    check_secrets({"training": {"run_name": "mine"}}, "run.yaml")


@pytest.mark.parametrize("key", ["hub_token", "nothing.at", "tasks.9.name", "seed.x"])
def test_override_that_is_refused_is_named_by_its_key(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model": "m", "tasks": [{"name": "a", "train": "a.json"}], "output_dir": "run"}))
    assert main(["learn", str(file), f"{key}={TOKEN}"]) == 2
    said = capsys.readouterr().err
    assert TOKEN not in said
    assert key in said


def test_secret_that_an_earlier_version_wrote_is_named_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"training": {"hub_token": TOKEN, "lr": 1}, "note": [f"see {TOKEN}"], TOKEN: {"password": 7}}
    assert TOKEN not in json.dumps(without_secrets(settings))
    assert without_secrets(settings)["training"]["lr"] == 1
    assert without_secrets({"tasks": ["a"], "none": None}) == {"tasks": ["a"], "none": None}
