"""Models of which some layers have no attention: heads are those of the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import JambaConfig, JambaForCausalLM, Lfm2Config, Lfm2ForCausalLM

from seekr import Run
from seekr.cli.main import main
from seekr.errors import InputError

Learn = Callable[..., Run]
ATTENDING = [1, 3]


@pytest.fixture(scope="module", params=["lfm2", pytest.param("jamba", marks=pytest.mark.thorough)])
def hybrid(request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, of which the second and the fourth attend."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(tiny_model_folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    model: Any
    if request.param == "lfm2":
        model = Lfm2ForCausalLM(Lfm2Config(**sizes, layer_types=["conv", "full_attention"] * 2))
    else:
        more = {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1}
        model = JambaForCausalLM(JambaConfig(**sizes, **more, use_mamba_kernels=False, mamba_d_state=8))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj", "v_proj"]}])
def test_a_hybrid_is_learned_by_the_heads_of_its_layers_with_attention(
    learn: Learn, hybrid: Path, lora: Any, tmp_path: Path
) -> None:
    """It was refused: "layers [0, 2] have no attention that can be read"."""
    method = {"name": "seekr", "replay_ratio": 0.2, "head_budget": 5}  # more than one layer holds
    run = learn(tmp_path / "run", "ab", model=hybrid, method=method, lora=lora)
    for stage in run.stages:
        assert sorted(stage.heads) == ATTENDING
        assert sum(map(len, stage.heads.values())) == 5
        assert not stage.importance["importance"][[0, 2]].any()
    replayed = [entry for entry in run.stages[1].log if entry.kind == "replay"]
    assert replayed
    divergences = [entry.parts["attention"] / entry.attention_weight for entry in replayed]
    assert min(divergences) > -1e-7  # nothing has drifted before the first step: rounding, of either sign
    assert max(divergences) > 0


def test_heads_drawn_at_random_are_those_of_layers_with_attention(learn: Learn, hybrid: Path, tmp_path: Path) -> None:
    method = {"name": "seekr", "replay_ratio": 0.2, "importance": "random", "head_budget": "all", "layer_budget": "all"}
    run = learn(tmp_path / "run", "a", model=hybrid, method=method)
    assert run.stages[0].heads == {layer: [0, 1, 2, 3] for layer in ATTENDING}
    assert not run.stages[0].importance["importance"][[0, 2]].any()


def test_a_budget_of_more_layers_than_attend_is_refused_before_anything_is_trained(
    learn: Learn, hybrid: Path, tmp_path: Path
) -> None:
    method = {"name": "seekr", "replay_ratio": 0.2, "layer_budget": 3}
    with pytest.raises(InputError, match=r"layer_budget=3: the model has 2 layers with attention; use 1..2 or null"):
        learn(tmp_path / "run", "a", model=hybrid, method=method)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_passed_a_budget_that_the_run_refuses_and_named_no_layers(
    hybrid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 8)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {hybrid}\ntasks: [{{name: a, train: {tmp_path / 'rows.jsonl'}}}]\nmethod: {{name: seekr}}\n"
        f"output_dir: {tmp_path / 'run'}\ntraining: {{use_cpu: true, max_steps: 1}}\n"
    )
    monkeypatch.setattr("seekr.runs.base_model._KNOWN", {})
    assert main(["learn", str(config), "--dry-run"]) == 0
    assert "layers 0, 2 have no attention that can be read" in " ".join(capsys.readouterr().out.split())
    assert main(["learn", str(config), "--dry-run", "method.layer_budget=3"]) == 2
    assert "layer_budget=3: the model has 2 layers with attention; use 1..2 or null" in capsys.readouterr().err
    assert main(["plan", str(config)]) == 0
    assert "layers 0, 2 have no attention that can be read" in " ".join(capsys.readouterr().out.split())
    assert main(["learn", str(config)]) == 0
    assert "layers 0, 2 have no attention that can be read" in capsys.readouterr().err
