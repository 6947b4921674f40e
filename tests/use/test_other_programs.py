"""The README's lines of lm-evaluation-harness and TRL, run on exported folders with a task and rows of a local file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from seekr import Run
from seekr.use.export import export

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
MODULES = {"lm_eval": "import lm_eval.__main__ as it; it.cli_evaluate()", "trl": "import trl.cli as it; it.main()"}
MORE = {
    "lm_eval": ["--include_path", ".", "--device", "cpu"],
    "trl": ["--max_steps", "1", "--use_cpu", "--bf16", "false"],
}
TASK = """
task: sky
dataset_path: json
dataset_kwargs: {data_files: {test: sky.jsonl}, cache_dir: cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["up", "down"]
doc_to_target: "{{a}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


def lines_of(program: str) -> list[str]:
    found = [line for line in README.read_text().splitlines() if line.startswith(f"{program} ")]
    assert found
    return found


@pytest.mark.parametrize("line", [line for program in MODULES for line in lines_of(program)])
def test_the_lines_of_the_readme_run(line: str, run_of: Callable[[str], Run], base: Path, tmp_path: Path) -> None:
    program = line.split()[0]
    if find_spec(program) is None:
        pytest.skip(f"{program} is not installed")
    run = run_of("lora").folder
    export(run, tmp_path / "my-model", merge=True)
    export(run, tmp_path / "my-adapter")
    (tmp_path / "sky.yaml").write_text(TASK)
    rows = [{"q": f"a {n}=", "a": ("up", "down")[n % 2]} for n in range(5)]
    (tmp_path / "sky.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps({"text": row["q"]}) + "\n" for row in rows))
    here = {"../models/my-llama": str(base), "hellaswag": "sky", "trl-lib/Capybara": "rows"}
    for name, place in here.items():
        line = line.replace(name, place)
    command = [sys.executable, "-c", MODULES[program], *line.split()[1:], *MORE[program]]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|sky|" in done.stdout or (tmp_path / "more" / "model.safetensors").is_file()
