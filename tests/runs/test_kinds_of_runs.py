"""Skills, joint training, adapters, fewer stages on disk, one more task on top of a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_runs import TRAINING, Stop, StopAt, digests
from transformers import AutoModelForCausalLM, PreTrainedModel

from seekr import Run, Task
from seekr.errors import InputError
from seekr.modeling import generation as evaluation
from seekr.modeling.generation import Generated
from seekr.runs import model_store
from seekr.runs.learn import evaluate
from seekr.scoring.cells import BASE, wanted_cells

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]


def test_a_skill_is_remembered_from_the_base_model_before_anything_is_trained(
    learn: Learn, task: MakeTask, tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", ["b", task("c", learn=False)])
    assert [stage.name for stage in run.stages] == ["c", "b"]
    skill, learned = run.stages
    assert skill.model is None
    assert not (skill.folder / "log.jsonl").exists()
    assert skill.memory is not None
    assert not skill.importance["change"].any()  # nothing was trained, so that nothing moved
    kinds = [json.loads(line)["kind"] for line in (learned.folder / "log.jsonl").read_text().splitlines()]
    assert set(kinds) == {"task", "replay"}  # protected from the first learned task on
    assert run.scores.tasks == ["c", "b"]
    base = evaluate(run.folder, cells="all").scores
    assert base.matrix[0] == base.base  # nothing was learned yet


def test_a_skill_comes_too_late_for_a_run_that_has_learned(finished: Run, learn: Learn, task: MakeTask) -> None:
    with pytest.raises(InputError, match="task 'c': learn: false remembers what the base model can do before"):
        learn(finished.folder, ["a", "b", task("c", learn=False)])


def test_a_task_without_test_rows_is_never_scored(learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", [task("c", learn=False, test=None), "a"], method="replay")
    assert run.scores.metrics == [None, "accuracy"]
    assert [row[0] for row in run.scores.matrix] == [None, None]
    assert run.scores.overall_performance == run.scores.matrix[1][1]


def test_bf16_full_eval_answers_in_bfloat16_and_trains_as_before(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = []
    generate = evaluation.generate_tokens

    def watched(model: PreTrainedModel, *args: Any, **more: Any) -> list[Generated]:
        dtypes.append(model.dtype)
        return generate(model, *args, **more)

    monkeypatch.setattr(evaluation, "generate_tokens", watched)
    cpu = {**TRAINING, "use_cpu": True}
    plain = learn(tmp_path / "plain", "a", method="sequential", training=cpu)
    run = learn(tmp_path / "run", "a", method="sequential", training={**cpu, "bf16_full_eval": True})
    assert dtypes == [torch.float32, torch.bfloat16]
    assert digests(run.folder) == digests(plain.folder)


def test_joint_is_one_stage_and_one_row(learn: Learn, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", "ab", method="joint")
    assert [path.name for path in (run.folder / "stages").iterdir()] == ["00-joint"]
    scores = json.loads((run.folder / "scores.json").read_text())
    assert scores["matrix"][0] == [None, None]
    assert None not in scores["matrix"][1]
    assert scores["backward_transfer"] is None
    assert len((run.stages[0].folder / "log.jsonl").read_text().splitlines()) == 7  # 28 rows, 4 a step
    with pytest.raises(InputError, match=r"tasks\.c"):
        learn(run.folder, "abc", method="joint")


def test_an_adapter_is_trained_on_from_task_to_task(learn: Learn, tiny_model_folder: Path, tmp_path: Path) -> None:
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    with pytest.raises(Stop):
        learn(tmp_path / "run", lora=lora, callbacks=[StopAt(1, 3)])
    run = learn(tmp_path / "run", lora=lora)
    first, second = (stage.model for stage in run.stages)
    assert first is not None
    assert second is not None
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    PeftModel.from_pretrained(base, second)
    straight = learn(tmp_path / "straight", lora=lora)
    assert digests(run.folder) == digests(straight.folder)


def test_older_weights_go_when_the_next_stage_is_scored(finished: Run, learn: Learn, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", keep_stages="last")
    assert [stage.model is not None for stage in run.stages] == [False, True]
    assert all(stage.memory is not None for stage in run.stages)
    assert run.scores.matrix == finished.scores.matrix
    kept = digests(finished.folder)
    assert digests(run.folder) == {k: v for k, v in kept.items() if not k.startswith("stages/00-a/model")}


@pytest.mark.parametrize(
    ("cells", "joint", "expected"),
    [
        ("paper", False, {(0, 0), (1, 1), (2, 0), (2, 1), (2, 2)}),
        ("seen", False, {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}),
        ("all", False, {(i, j) for i in (BASE, 0, 1, 2) for j in range(3)}),
        ("paper", True, {(2, 0), (2, 1), (2, 2)}),
        ("seen", True, {(2, 0), (2, 1), (2, 2)}),
        ("all", True, {(i, j) for i in (BASE, 2) for j in range(3)}),
    ],
)
def test_wanted_cells(cells: str, joint: bool, expected: set[tuple[int, int]]) -> None:
    wanted = wanted_cells(cells, 3, joint=joint)
    assert len(wanted) == len(set(wanted))
    assert set(wanted) == expected


def test_max_steps_wins_over_epochs_and_a_task_over_the_training(learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    def steps(run: Run) -> list[int]:
        return [len((stage.folder / "log.jsonl").read_text().splitlines()) for stage in run.stages]

    tasks = ["a", task("b", num_train_epochs=2)]
    few = {"learning_rate": 1e-3, "per_device_train_batch_size": 7}
    assert steps(learn(tmp_path / "1", tasks, method="sequential", training={**few, "num_train_epochs": 1})) == [2, 4]
    assert steps(learn(tmp_path / "2", tasks, method="sequential", training={**few, "max_steps": 3})) == [3, 3]


@pytest.mark.parametrize(("bf16", "noise"), [(False, 1e-6), (True, 2e-5)])
def test_teachers_are_read_in_the_precision_of_training(learn: Learn, tmp_path: Path, bf16: bool, noise: float) -> None:
    """A model that does not move has no attention loss; one remembered in float32 and replayed in bfloat16 had."""
    method = {
        "name": "seekr",
        "replay_ratio": 0.2,
        "attention_weight": 1.0,
        "query_budget": None,
        "teacher_form": "exact",
    }
    training = {
        "learning_rate": 0.0,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "bf16": bf16,
        "use_cpu": True,
    }
    run = learn(tmp_path / "run", "ab", method=method, training=training)
    lines = [json.loads(line) for line in (run.stages[1].folder / "log.jsonl").read_text().splitlines()]
    attention = [line["attention"] for line in lines if line["kind"] == "replay"]
    assert attention
    assert max(attention) <= noise


def test_the_base_of_an_adapter_is_not_read_again_to_measure(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model before the task was a second one with a base of its own: half of the memory that measuring takes."""
    found: list[float] = []
    real = model_store.on_same_base

    def watched(model: Any, adapter: Path | None) -> Any:
        before = real(model, adapter)
        shared = {weight.data_ptr() for weight in model.parameters()}
        found.append(sum(weight.numel() for weight in before.parameters() if weight.data_ptr() not in shared))
        return before

    monkeypatch.setattr(model_store, "on_same_base", watched)
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    run = learn(tmp_path / "run", "ab", method={"name": "seekr", "replay_ratio": 0.2}, lora=lora)
    adapter = load_file(run.stages[0].folder / "model" / "adapter_model.safetensors")
    assert found == [0, sum(weight.numel() for weight in adapter.values())]
    assert all(stage.importance["change"].any() for stage in run.stages)
