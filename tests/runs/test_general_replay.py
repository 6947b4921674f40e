"""General rows are replayed while tasks are learned, and no row of these tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from shown import cells
from small_runs import TRAINING, Stop, StopAt, digests
from transformers import AutoTokenizer

from seekr import Run, Task
from seekr.cli.main import main
from seekr.data.encoding import encode_all
from seekr.data.reading import read_split
from seekr.errors import InputError

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]


def kinds(run: Run, stage: int) -> list[str]:
    lines = (run.stages[stage].folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["kind"] for line in lines]


@pytest.mark.parametrize("more", [{}, {"lora": {"r": 2, "target_modules": ["q_proj"]}}], ids=["full", "lora"])
def test_all_rows_of_skills_and_none_of_tasks_are_kept(
    learn: Learn, task: MakeTask, tiny_model_folder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    skill = task("c", learn=False)
    run = learn(tmp_path / "run", ["a", "b", skill], method="general_replay", **more)
    memories = [stage.memory for stage in run.stages]
    assert [len(memory) for memory in memories if memory is not None] == [14, 0, 0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = encode_all(read_split(skill, "train", seed=0), tokenizer, None)
    for place, row in enumerate(rows):
        kept = memories[0].encoded(place)  # type: ignore[union-attr]
        assert kept.input_ids.tolist() == row.input_ids.tolist()
        assert kept.labels.tolist() == row.labels.tolist()
    for stage in (1, 2):  # 14 rows each, 4 a step, and no more replay steps than steps of the task
        assert kinds(run, stage).count("task") == kinds(run, stage).count("replay") == 4
    plain = learn(tmp_path / "plain", ["a", "b", skill], method="sequential", **more)
    files = [next((run.stages[1].folder / "model").glob("*model.safetensors")) for run in (run, plain)]
    one, two = map(load_file, files)
    assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_share_of_the_skill_may_be_kept(learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    method = {"name": "general_replay", "replay_ratio": 0.5, "replay_passes": None}
    run = learn(tmp_path / "run", ["a", task("c", learn=False)], method=method)
    assert run.stages[0].memory is not None
    assert len(run.stages[0].memory) == 7
    assert kinds(run, 1).count("replay") == 2


def test_stopped_and_resumed_is_never_stopped(learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    tasks = ["a", "b", task("c", learn=False)]
    straight = learn(tmp_path / "straight", tasks, method="general_replay")
    with pytest.raises(Stop):
        learn(tmp_path / "run", tasks, method="general_replay", callbacks=[StopAt(1, 5)])
    run = learn(tmp_path / "run", tasks, method="general_replay")
    assert digests(run.folder) == digests(straight.folder)


@pytest.mark.parametrize(
    "precision", [{"dtype": "bfloat16"}, {"training": {**TRAINING, "bf16": True, "use_cpu": True}}]
)
def test_half_precision(learn: Learn, task: MakeTask, tmp_path: Path, precision: dict[str, Any]) -> None:
    run = learn(tmp_path / "run", ["a", task("c", learn=False)], method="general_replay", **precision)
    folder = run.stages[1].model
    assert folder is not None
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


def test_a_run_without_a_skill_is_refused(learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("seekr.modeling.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
        with pytest.raises(InputError, match=r"method general_replay: no task is a skill, .* learn: false") as caught:
            learn(tmp_path / "run", method="general_replay")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_its_plan_counts_the_skills_rows_alone(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["method"] = {"name": "general_replay"}
    config["tasks"].append(config["tasks"][0] | {"name": "general", "learn": False})
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["plan", str(path), "--json", str(tmp_path / "plan.json")]) == 0
    tasks = json.loads((tmp_path / "plan.json").read_text())["tasks"]
    assert [(one["task"], one["kept_rows"], one["replay_steps"]) for one in tasks] == [
        ("general", 14, 0),
        ("a", 0, 4),
        ("b", 0, 4),
    ]
    assert main(["learn", str(path)]) == 0
    capsys.readouterr()
    assert main(["memory", str(tmp_path / "runs" / "x")]) == 0
    shown = capsys.readouterr().out
    assert [cells(shown, name)[1:3] for name in ("general", "a", "b")] == [["14", "112"], ["0", "0"], ["0", "0"]]
