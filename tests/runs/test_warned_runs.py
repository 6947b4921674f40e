"""What a run says before the work, or early in it, of results that could not be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from seekr import Run, Task
from seekr.cli.main import main

Learn = Callable[..., Run]


def test_weights_that_do_not_move_are_told(learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"learning_rate": 1e-8, "per_device_train_batch_size": 4, "max_steps": 2}
    learn(tmp_path / "run", "a", method="sequential", dtype="bfloat16", training=training)
    assert "of the weights did not move in the first 2 steps" in capsys.readouterr().err


def test_few_kept_rows_of_a_given_ratio_are_told(
    learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path / "given", "ab", method={"name": "replay", "replay_ratio": 0.1})
    assert "method.replay_ratio=0.1 keeps 1 row of each of 2 tasks: fewer than 20" in capsys.readouterr().err
    learn(tmp_path / "default", "ab", method="replay")
    assert "fewer than 20" not in capsys.readouterr().err


@pytest.mark.parametrize("asked", [True, False])
def test_experts_are_balanced_or_it_is_said(
    learn: Learn, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], asked: bool
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=259, max_position_embeddings=64, num_key_value_heads=1, num_local_experts=4, **sizes,
        output_router_logits=asked, router_aux_loss_coef=0.5,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "model")
    run = learn(tmp_path / "run", "ab", method="replay", model=tmp_path / "model")
    lines = [json.loads(line) for line in (run.stages[1].folder / "log.jsonl").read_text().splitlines()]
    assert [("balance" in line) for line in lines] == [asked and line["kind"] == "task" for line in lines]
    assert ("the experts are not balanced while it is trained" in capsys.readouterr().err) != asked


def test_answers_that_cannot_be_given_are_told(
    learn: Learn, task: Callable[..., Task], data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "3 of 3 test answers take more than the 2 tokens of max_new_tokens and cannot be right"
    run = learn(tmp_path / "run", [task("a", max_new_tokens=2)], method="sequential")
    assert f"seekr: task a: {said}" in capsys.readouterr().err
    more = f"b={data_folder / 'b'},max_new_tokens=2"
    assert main(["learn", "--from", str(run.folder), "--task", more, "--dry-run"]) == 0
    assert f"b: {said}" in " ".join(capsys.readouterr().out.split())
    settled = learn(tmp_path / "settled", [task("a", max_new_tokens=None)], method="sequential")
    assert "cannot be right" not in capsys.readouterr().err
    assert json.loads((settled.folder / "run.json").read_text())["config"]["tasks"][0]["max_new_tokens"] is None
    again = learn(tmp_path / "settled", [task("a", max_new_tokens=None)], method="sequential")
    assert again.scores.matrix == settled.scores.matrix
