"""What a command prints of what libraries say: nothing of their advice, all of what is wrong with a result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


@pytest.fixture
def model(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A model with tied weights, and generation settings that transformers has advice about."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=259, max_position_embeddings=64, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "eos_token_id": 2}))
    return tmp_path / "model"


CHECKED = """
import sys
from seekr.cli.library_warnings import leave_out_advice
from seekr.config.schema import load_config
from seekr.errors import InputError
from seekr.runs.prepare import Request, prepare
leave_out_advice()
for path in sys.argv[1:]:
    status = 0
    try:
        prepare(Request(load_config(path)))
    except InputError as error:
        status = 2
        print(f"seekr: error: {error}", file=sys.stderr)
    print(f"{status} ====", file=sys.stderr)
"""


@pytest.mark.thorough
def test_advice_is_left_out_and_what_is_wrong_is_said(model: Path, tmp_path: Path) -> None:
    """It was all silenced together."""
    weights = dict(load_file(model / "model.safetensors"))
    untied = weights | {"lm_head.weight": torch.ones(259, 16)}
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": "a", "answer": "b"}]))
    for name, content in (("plain", weights), ("untied", untied), ("wrapped", wrapped)):
        shutil.copytree(model, tmp_path / name)
        save_file(content, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        task = {"name": "a", "train": "rows.json", "test": "rows.json"}
        config = {"model": name, "tasks": [task], "method": "sequential", "output_dir": "run"}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    files = [str(tmp_path / f"{name}.yaml") for name in ("plain", "untied", "wrapped")]
    command = [sys.executable, "-c", CHECKED, *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    plain, untied_said, wrapped_said, _ = done.stderr.split(" ====\n")
    assert plain == "0"
    assert "we will NOT tie them" in untied_said
    assert untied_said.endswith("\n0")
    assert "model._orig_mod" in wrapped_said
    assert (wrapped_said.count("\n"), wrapped_said[-1]) == (1, "2")
