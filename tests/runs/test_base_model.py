"""What a run has to know of its base model is read once, and not at all where it is only looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from seekr import Task, learn
from seekr.cli.main import main
from seekr.config.training_arguments import check_lora
from seekr.errors import InputError
from seekr.methods import METHODS, make_method
from seekr.modeling import loading
from seekr.runs.base_model import base_model

ROWS = [{"prompt": f"{place}:", "answer": f" {place * 7 % 5}"} for place in range(6)]


@pytest.fixture
def model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, which nothing in this process has read yet."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models whose weights were read."""
    found: list[str] = []
    load = loading.load_model

    def counted(base, *words, **more):
        found.append(base)
        return load(base, *words, **more)

    monkeypatch.setattr(loading, "load_model", counted)
    return found


def written(folder: Path, model: Path, **more) -> str:
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "eval.json").write_text(json.dumps([row | {"prompt": f"eval {row['prompt']}"} for row in ROWS]))
    config = {
        "model": str(model),
        "tasks": [{"name": "one", "train": "rows.json", "eval": "eval.json", "test": "rows.json"}],
        "training": {"use_cpu": True, "max_steps": 1},
        "output_dir": "run",
    }
    (folder / "config.json").write_text(json.dumps(config | more))
    return str(folder / "config.json")


def test_dry_run_and_plan_read_no_weights(tmp_path, model, reads, monkeypatch):
    config = written(tmp_path, model)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("weights were read"))
    assert main(["learn", config, "--dry-run"]) == 0
    assert main(["learn", config, "seeds=[1,2]", "--dry-run"]) == 0
    assert main(["tune", config, "method.replay_ratio=[0.1,0.5]", "--dry-run"]) == 0
    assert main(["plan", config]) == 0
    assert reads == []


def test_dry_run_of_a_run_that_stands_compares_its_settings(tmp_path, model, reads, capsys):
    config = written(tmp_path, model)
    assert main(["learn", config]) == 0
    reads.clear()
    assert main(["learn", config, "--dry-run"]) == 0
    assert main(["learn", config, "seed=3", "--dry-run"]) == 2
    assert "seed is 0 there and 3 here" in capsys.readouterr().err
    assert reads == []


def test_dry_run_refuses_weights_that_are_missing(tmp_path, model, capsys):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    weights.pop(name)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert main(["learn", written(tmp_path, model), "--dry-run"]) == 2
    assert name in capsys.readouterr().err


def test_base_model_is_read_once_to_check_several_seeds(tmp_path, model, reads, monkeypatch):
    monkeypatch.setattr("seekr.runs.stage.build_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["learn", written(tmp_path, model), "seeds=[1,2,3]"]) == 130
    assert reads == [str(model)]


def test_base_model_is_read_once_to_check_the_candidates_of_a_grid(tmp_path, model, reads, monkeypatch):
    monkeypatch.setattr("seekr.runs.stage.build_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    grid = "method.attention_weight=[1,10,100]"
    assert main(["tune", written(tmp_path, model), grid]) == 130
    assert reads == [str(model)]


def test_model_that_changed_is_read_again(tmp_path, model):
    def learned() -> str:
        tasks = [Task("one", train=ROWS, test=ROWS)]
        run = learn(model=model, tasks=tasks, output_dir=tmp_path / "run", training={"use_cpu": True, "max_steps": 1})
        return str(run.record["model_fingerprint"])

    learned()
    changed = loading.load_model(str(model), dtype="float32")
    changed.lm_head.weight.data.add_(1.0)
    changed.save_pretrained(model)
    with pytest.raises(InputError, match="model is"):
        learned()


@pytest.mark.parametrize("name", METHODS)
def test_skeleton_is_adapted_and_counted_as_the_model_itself(model, name):
    method = make_method(name)
    lora = check_lora(method.form.lora_settings(None))
    counts = []
    for base in (loading.load_skeleton(str(model), dtype="float32"), loading.load_model(str(model), dtype="float32")):
        method.check_model(base, 32, 2)
        adapted = method.form.adapt(base.requires_grad_(True), lora)
        trained = loading.parameter_count(adapted, trainable_only=True)
        counts.append((trained, method.form.stored_parameters(adapted, trained)))
    assert counts[0] == counts[1]


def test_few_layers_hold_each_kind_of_layer(tmp_path):
    config = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=4, eos_token_id=1, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    found, _ = loading.few_layers(str(tmp_path), dtype="float32")
    assert set(found.config.layer_types) == {"sliding_attention", "full_attention"}
    assert len(found.model.layers) == 2
    assert base_model(str(tmp_path), "float32").try_without_weights(4) is None
