"""The life of a run: what is on the disk, what a later start finds, and what it refuses."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from earlier_runs import as_of_before_manifests
from safetensors import safe_open
from small_runs import SEEKR, TRAINING, Stop, StopAt, digests
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import seekr
from seekr import Run, Task
from seekr.attention.backend import divergence_on
from seekr.errors import InputError, RunError
from seekr.methods import Seekr, TaskContext
from seekr.runs.lock import locked

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]


def test_files_of_a_run(finished: Run, tiny_model_folder: Path) -> None:
    assert sorted(path.name for path in (finished.folder / "stages").iterdir()) == ["00-a", "01-b"]
    for stage in finished.stages:
        names = {path.name for path in stage.folder.iterdir()}
        described = {"log.jsonl", "stage.json", "manifest.json"}
        assert names == {"model", "memory", "importance.safetensors", "heads.json"} | described
        model = AutoModelForCausalLM.from_pretrained(stage.folder / "model")
        assert model.dtype == torch.float32
        AutoTokenizer.from_pretrained(stage.folder / "model")
        steps = [json.loads(line) for line in (stage.folder / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
        assert {line["kind"] for line in steps} == ({"task"} if stage.name == "a" else {"task", "replay"})
    assert sorted(path.name for path in (finished.folder / "predictions").iterdir()) == [
        "0-0.jsonl",
        "1-0.jsonl",
        "1-1.jsonl",
    ]
    texts = [finished.folder / "predictions", *finished.folder.glob("stages/*/memory")]
    assert {path.stat().st_mode & 0o777 for path in texts} == {0o700}
    answers = [json.loads(line) for line in (finished.folder / "predictions" / "1-0.jsonl").read_text().splitlines()]
    assert len(answers) == 3
    assert all({"prompt", "prediction", "references"} <= answer.keys() for answer in answers)
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["seed"] == 0
    assert {"config", "versions", "model_fingerprint", "tokenizer_fingerprint"} <= record.keys()
    assert not (finished.folder / "working").exists()
    scores = json.loads((finished.folder / "scores.json").read_text())
    assert scores["tasks"] == ["a", "b"]
    assert scores["matrix"][0][1] is None
    assert scores["matrix"][1][0] is not None
    assert scores["overall_performance"] == finished.scores.overall_performance


def test_safetensors_of_a_stage_name_no_place(finished: Run, tiny_model_folder: Path) -> None:
    for path in finished.folder.glob("stages/**/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            about = str(file.metadata())
        assert "/" not in about
        assert str(finished.folder).encode() not in path.read_bytes()


def test_a_second_start_does_nothing_again(finished: Run, learn: Learn) -> None:
    before = digests(finished.folder, "**/*")
    learn(finished.folder, callbacks=[StopAt(0, 1)])
    assert digests(finished.folder, "**/*") == before


@pytest.mark.parametrize("task_and_step", [(0, 3), (1, 1), (1, 5)])
def test_stopped_and_resumed_is_never_stopped(
    finished: Run, learn: Learn, tmp_path: Path, task_and_step: tuple[int, int]
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", callbacks=[StopAt(*task_and_step)])
    assert len(list((tmp_path / "run" / "stages").glob("0*"))) == task_and_step[0]
    run = learn(tmp_path / "run")
    assert digests(run.folder) == digests(finished.folder)
    assert digests(run.folder, "**/scores.json") == digests(finished.folder, "**/scores.json")
    logs = digests(run.folder, "stages/*/log.jsonl")
    assert logs == digests(finished.folder, "stages/*/log.jsonl")


def test_a_stop_while_a_stage_is_put_together(finished: Run, learn: Learn, tmp_path: Path, monkeypatch) -> None:
    from seekr.methods import Seekr

    def fail(self: Seekr, context: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(Seekr, "remember", fail)
        with pytest.raises(Stop):
            learn(tmp_path / "run")
    assert not list((tmp_path / "run" / "stages").glob("[0-9]*"))
    assert digests(learn(tmp_path / "run").folder) == digests(finished.folder)


def test_a_stop_while_scoring_generates_no_cell_twice(
    finished: Run, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import seekr.modeling.generation

    generate = seekr.modeling.generation.generate_tokens
    calls = []

    def count(*args: object, **kwargs: object) -> list[object]:
        calls.append(1)
        if len(calls) == 3:
            raise Stop
        return generate(*args, **kwargs)

    monkeypatch.setattr(seekr.modeling.generation, "generate_tokens", count)
    with pytest.raises(Stop):
        learn(tmp_path / "run")
    run = learn(tmp_path / "run")
    assert len(calls) == 4
    assert digests(run.folder, "predictions/*") == digests(finished.folder, "predictions/*")


def test_more_tasks_at_the_end_go_on(finished: Run, learn: Learn, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    run = learn(folder, "abc")
    straight = learn(tmp_path / "straight", "abc")
    assert digests(folder) == digests(straight.folder)
    assert run.scores.matrix[2] == straight.scores.matrix[2]
    assert None not in run.scores.matrix[2]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"dtype": "bfloat16"}, "dtype is float32 there and bfloat16 here"),
        ({"method": "replay"}, "method.name is seekr there and replay here"),
        ({"method": {**SEEKR, "attention_weight": 3}}, "method.attention_weight is 10.0 there and 3.0 here"),
        ({"training": {**TRAINING, "learning_rate": 0.5}}, "training.learning_rate is 0.01 there and 0.5 here"),
        ({"training": {**TRAINING, "weight_decay": 0.1}}, "training.weight_decay is not set there and 0.1 here"),
        ({"lora": {"r": 2}}, "lora.r is not set there and 2 here"),
        ({"max_length": 40}, "max_length is 64 there and 40 here"),
        ({"tasks": "ba"}, "task 0 (counted from 0, skills first) is 'a' there and 'b' here"),
        ({"tasks": "a"}, "has finished task 'b' too"),
    ],
)
def test_another_identity_is_refused(finished: Run, learn: Learn, change: dict, key: str) -> None:
    before = digests(finished.folder, "**/*")
    with pytest.raises(InputError) as error:
        learn(finished.folder, **{"tasks": "ab", **change})
    assert key in str(error.value)
    assert "\n" not in str(error.value)
    assert digests(finished.folder, "**/*") == before


def test_another_model_is_refused(finished: Run, learn: Learn, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.no_grad():
        model.model.norm.weight += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="model is"):
        learn(finished.folder, model=tmp_path / "other")


def test_what_changes_no_weights_may_change(finished: Run, learn: Learn) -> None:
    harmless = {"logging_steps": 1, "save_steps": 7, "dataloader_num_workers": 0, "weight_decay": 0.0}
    before = digests(finished.folder)
    run = learn(finished.folder, training={**TRAINING, **harmless}, cells="seen", keep_stages="all")
    assert (run.folder, digests(run.folder)) == (finished.folder, before)


def test_data_changed_in_the_middle_of_a_task_begins_it_again(learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    other = [{"prompt": f"q{i}", "answer": "z"} for i in range(14)]
    with pytest.raises(Stop):
        learn(tmp_path / "run", "a", method="sequential", callbacks=[StopAt(0, 3)])
    resumed = learn(tmp_path / "run", [task("a", train=other)], method="sequential")
    straight = learn(tmp_path / "straight", [task("a", train=other)], method="sequential")
    assert digests(resumed.folder) == digests(straight.folder)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tasks": ["a"]}, "tasks: give each as seekr.Task.*, not str 'a'"),
        ({"tasks": [{"name": "a", "train": []}]}, "tasks: give each as seekr.Task.*, not an object"),
        ({"tasks": iter([])}, "tasks: list should have at least 1 item"),
        ({"training": TrainingArguments("x", use_cpu=True)}, "training: give a mapping .*, not a TrainingArguments"),
        ({"output_dir": None}, "output_dir: give a folder, not null"),
    ],
)
def test_what_python_gives_wrongly_was_a_traceback_or_a_folder_named_none(
    given: dict, told: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = [Task("a", train=[{"prompt": "a", "answer": "b"}])]
    with pytest.raises(InputError, match=told):
        seekr.learn(**{"model": tiny_model_folder, "tasks": tasks, "output_dir": "run", **given})
    assert not [*tmp_path.iterdir()]


def test_a_name_that_file_systems_do_not_hold_was_a_traceback_in_mid_run() -> None:
    with pytest.raises(InputError, match=r"becomes a folder name, and has 300 characters; use at most 200"):
        Task("a" * 300, train=[])


def test_a_folder_with_other_files_is_refused(learn: Learn, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no run"):
        learn(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        learn(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_processes_do_not_share_a_folder(finished: Run, learn: Learn) -> None:
    with locked(finished.folder), pytest.raises(InputError, match="another process"):
        learn(finished.folder)


def test_a_memory_of_another_model_is_refused(finished: Run, learn: Learn, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    about = folder / "stages" / "00-a" / "memory" / "memory.json"
    about.write_text(about.read_text().replace(finished.record["model_fingerprint"], "0123456789abcdef"))
    with pytest.raises(InputError, match=r"memory\.json: its checksum differs"):
        learn(folder, "abc")
    as_of_before_manifests(folder)
    with pytest.raises(InputError, match="belongs to another model"):
        learn(folder, "abc")
    assert not (folder / "stages" / "02-c").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_is_finished(learn: Learn, tmp_path: Path) -> None:
    from seekr.methods import Sequential

    class Bad(Sequential):
        def start(self, context):  # type: ignore[no-untyped-def]
            objective = super().start(context)
            if context.index == 1:
                objective.penalties["bad"] = lambda model: next(model.parameters()).sum() * float("nan")
            return objective

    with pytest.raises(RunError, match="task 'b', step 1"):
        learn(tmp_path / "run", method=Bad())
    assert [stage.name for stage in Run(tmp_path / "run").stages] == ["a"]


@pytest.mark.parametrize("method", ["sequential", "derpp", "seekr"])
def test_a_loss_that_is_not_finite_behind_the_last_step_leaves_no_stage(
    learn: Learn, tmp_path: Path, method: str
) -> None:
    training = {**TRAINING, "learning_rate": 1e30, "max_steps": 1}
    with pytest.raises(RunError, match="task 'a', after its last step: the loss"):
        learn(tmp_path / "run", method=method, training=training)
    assert Run(tmp_path / "run").stages == []


def test_nothing_of_the_optimizer_is_left_when_a_task_is_measured(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state, twice the weights, stayed through measuring until Python's garbage collector came by."""
    found: list[type] = []

    def measured(self: Seekr, context: TaskContext) -> None:
        found.extend(type(thing) for thing in gc.get_objects() if issubclass(type(thing), torch.optim.Optimizer))
        raise Stop

    monkeypatch.setattr(Seekr, "remember", measured)
    with pytest.raises(Stop):
        learn(tmp_path / "run")
    assert not found


def test_a_missing_memory_is_told_before_anything_is_written(finished: Run, learn: Learn, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    shutil.rmtree(run / "stages" / "00-a" / "memory")
    record = (run / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"memory\.json: missing"):
        learn(run, "abc")
    assert (run / "run.json").read_bytes() == record
    assert not (run / "working").exists()


def test_a_divergence_that_is_not_known_is_told_before_the_first_task_is_trained(
    learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told once the first memory was there, behind a whole task."""
    monkeypatch.setenv("SEEKR_DIVERGENCE", "cutlass")
    divergence_on.cache_clear()
    with pytest.raises(InputError, match="SEEKR_DIVERGENCE=cutlass is not known; set it to triton or torch"):
        learn(tmp_path / "run", "a")
    assert Run(tmp_path / "run").stages == []
    monkeypatch.delenv("SEEKR_DIVERGENCE")
    assert [stage.name for stage in learn(tmp_path / "run", "a").stages] == ["a"]
