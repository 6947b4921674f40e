"""Plans of whole runs: against runs that were really made, by the books, and refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from shown import cells
from transformers import LlamaConfig, TrainerCallback

import seekr
from seekr.attention.rows import QueryKeyRows
from seekr.attention.stored import encode, stored_bytes
from seekr.attention.tap import Geometry
from seekr.cli.main import main
from seekr.config.schema import make_config, resolve_paths
from seekr.planning.plan import make_plan
from seekr.planning.table import headline, totals
from seekr.runs.execute import run_request
from seekr.runs.prepare import Request
from seekr.training.order import StepPlan

METHOD = {"name": "seekr", "replay_ratio": 0.25, "query_budget": 4}
TRAINING = {"per_device_train_batch_size": 4, "num_train_epochs": 1.5}


@pytest.fixture
def raw(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of two tasks whose rows are here."""
    for name in "ab":
        rows = [{"prompt": f"{name} {i * i}=", "answer": "yes" * (1 + i % 4)} for i in range(14)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return {
        "model": str(tiny_model_folder),
        "tasks": [{"name": name, "train": str(tmp_path / f"{name}.json")} for name in "ab"],
        "method": METHOD,
        "training": TRAINING,
        "output_dir": str(tmp_path / "run"),
    }


def plan_of(raw: dict[str, Any], **options: Any) -> Any:
    return make_plan(resolve_paths(make_config(raw, "test"), Path.cwd()), **options)


def test_steps_kept_bytes_and_disk_are_those_of_the_run(raw: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(raw)
    assert not (tmp_path / "run").exists()
    tasks = [seekr.Task(task["name"], train=task["train"]) for task in raw["tasks"]]
    run = seekr.learn(
        model=raw["model"], tasks=tasks, method=METHOD, training=TRAINING, output_dir=raw["output_dir"]
    )  # fmt: skip
    for stage, planned, kept in zip(run.stages, plan.stages, plan.kept, strict=True):
        kinds = [json.loads(line)["kind"] for line in (stage.folder / "log.jsonl").read_text().splitlines()]
        assert (kinds.count("task"), kinds.count("replay")) == (planned.task_steps, planned.replay_steps)
        assert stage.memory is not None
        assert stage.memory.summary()["samples"] == len(planned.kept)
        assert stage.memory.summary()["tokens"] == sum(planned.rows.sizes[i][0] for i in planned.kept)
        stored = sum(_tensor_bytes(path) for path in (stage.folder / "memory").glob("*.safetensors"))
        assert kept == pytest.approx(stored, rel=0.15)  # heads are spread evenly only on paper
        weights = (stage.folder / "model" / "model.safetensors").stat().st_size
        assert plan.disk.one_stage == pytest.approx(weights, rel=0.02)
    assert plan.disk.stages == 2 * plan.disk.one_stage


def test_a_plan_with_lora_does_not_say_that_all_is_trained(raw: dict[str, Any]) -> None:
    full, lora = (headline(plan_of(raw | {"lora": lora}))[0] for lora in (None, {"r": 2}))
    assert "all trained" in full
    assert "all trained" not in lora
    assert f"{plan_of(raw | {'lora': {'r': 2}}).paper.trained:,} trained" in lora


@pytest.mark.parametrize(("limit", "most"), [(None, 5), (1, 2), (2, 3)])
def test_checkpoints_are_as_many_as_a_run_has_at_a_time(raw: dict[str, Any], limit: int | None, most: int) -> None:
    """Where none was to be deleted, two were planned."""

    class Seen(TrainerCallback):
        most = 0

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.most = max(self.most, len(list(Path(args.output_dir).glob("checkpoint-*"))))

    seen = Seen()
    training = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "save_steps": 2, "save_total_limit": limit}
    raw |= {"training": training, "method": "sequential", "tasks": raw["tasks"][:1]}
    raw["tasks"][0] |= {"num_train_epochs": 2.25}
    config = resolve_paths(make_config(raw, "test"), Path.cwd())
    assert make_plan(config).disk.most_checkpoints == most
    run_request(Request(config, callbacks=[seen]))
    assert seen.most == most


@pytest.mark.parametrize(
    "name", ["ewc", "lwf", "kl_anchor", "averaging", "agem", "hft", "olora", "on_policy_replay", "l2p"]
)
def test_methods_are_planned_and_what_is_not_counted_is_said(raw: dict[str, Any], name: str) -> None:
    kept = {"replay_ratio": 0.25} if name in ("agem", "on_policy_replay") else {}
    plan = plan_of(raw | {"method": {"name": name, **kept}})
    named = {"on_policy_replay": "replay step"}.get(name, "task step")
    assert named in {phase.name for phase in plan.phases}
    assert "measuring heads" not in {phase.name for phase in plan.phases}
    assert any(note.startswith(f"method {name}: not counted") for note in plan.notes) is (
        name not in ("hft", "averaging")
    )
    if name == "ewc":
        assert plan.disk.one_stage == 4 * plan.paper.stored + 8 * plan.paper.trained


def _tensor_bytes(path: Path) -> int:
    from safetensors.torch import load_file

    return sum(tensor.nbytes for tensor in load_file(path).values())


def test_seven_billion_parameters_and_fifteen_tasks_fill_a_disk(tmp_path: Path) -> None:
    raw = _seven_billion(tmp_path)
    plan = plan_of(raw | {"method": {"name": "sequential"}})
    assert plan.disk.stages == 15 * 4 * plan.paper.parameters
    assert 400e9 < plan.disk.stages < 425e9
    assert any("keep_stages: last" in note for note in plan.notes)
    assert (
        plan_of(raw | {"method": {"name": "sequential"}, "keep_stages": "last"}).disk.stages
        == 4 * plan.paper.parameters
    )


def _seven_billion(folder: Path) -> dict[str, Any]:
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096,
    ).save_pretrained(folder / "shape")  # fmt: skip
    tasks = [{"name": f"t{i}", "train": str(folder / f"t{i}.json"), "train_limit": 100} for i in range(15)]
    training = {"per_device_train_batch_size": 1, "bf16": True, "gradient_checkpointing": True}
    common = {"model": str(folder / "shape"), "tasks": tasks, "training": training, "max_length": 512}
    return common | {"output_dir": str(folder / "run")}


def test_parts_are_divided_by_the_devices_under_fsdp_alone(raw: dict[str, Any]) -> None:
    plan = plan_of(raw | {"method": {"name": "sequential"}}, device_memory=10**9, devices=4)
    by_way = {way.sharding: way for way in plan.ways}
    whole, parts = by_way["DDP"].parts, by_way["FSDP2"].parts
    for name in ("weights", "optimizer state"):
        assert parts[name] == -(-whole[name] // 4)
    assert whole["DDP's gradient buckets"] == 4 * plan.paper.trained
    assert {way.verdict(10**9) for way in plan.ways} == {"yes"}
    assert by_way["DDP"].verdict(1000) == "no"
    steps = plan.stages[0].task_steps
    assert steps == 2  # 14 rows in steps of 16, an epoch and a half


@given(
    st.integers(1, 6), st.sampled_from([8, 20, 64]), st.integers(2, 40), st.sampled_from(["exact", "query_key", "rows"])
)
def test_bytes_of_a_form_are_those_of_its_tensors(heads: int, size: int, length: int, form: Any) -> None:
    key_heads = -(-heads // 2)
    key_of_head = torch.arange(heads) // 2
    query, key = torch.randn(heads, length, size), torch.randn(key_heads, length, size)
    teacher = QueryKeyRows(query, key, key_of_head, torch.arange(length), Geometry(size**-0.5))
    stored = {name: tensor for name, tensor in encode(teacher, form).items() if name != "key_of_head"}
    assert sum(tensor.nbytes for tensor in stored.values()) == stored_bytes(teacher, form)


def test_hours_are_tokens_by_tokens_a_second(raw: dict[str, Any]) -> None:
    plan = plan_of(raw, tokens_per_second=10.0)
    assert plan.hours == plan.tokens / 36000
    assert plan_of(raw).hours is None
    both = [sum(tokens for tokens, _ in stage.rows.sizes) for stage in plan.stages]
    whole = plan_of(raw | {"method": "sequential", "training": {**TRAINING, "num_train_epochs": 2}})
    assert whole.tokens == 2 * sum(both)


def test_the_command_shows_and_writes_the_plan(raw: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    words = ["plan", str(tmp_path / "config.yaml"), "method.name=derpp", "--device-memory", "1GB", "--devices", "2"]
    assert main([*words, "--tokens-per-second", "100", "--json", str(tmp_path / "plan.json")]) == 0
    shown, written = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    assert shown.count(" FSDP2  ") == shown.count(" DDP  ") == 1
    assert cells(shown, "optimizer", "state")[2:] == ["257", "kB", "257", "kB"]
    for task in written["tasks"]:
        counts = (task["rows"], task["task_steps"], task["replay_steps"])
        assert cells(shown.partition("Tasks\n")[2], task["task"])[1:4] == [str(count) for count in counts]
    replayed = sum(task["replay_steps"] for task in written["tasks"])
    steps = replayed + sum(task["task_steps"] for task in written["tasks"])
    assert f"steps    {steps} ({replayed} of them replay)" in shown
    assert written["method"] == "derpp"
    assert [it["phase"] for it in written["memory"]] == ["task step", "replay step"]
    assert all(sum(it["parts"].values()) == it["bytes"] for it in written["memory"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--devices", "0"], "no whole number of at least 1"),
        (["--tokens-per-second", "0"], "no number above 0"),
        (["--device-memory", "80 cows"], "no size such as 80GB"),
        (["--json", "/nowhere/plan.json"], "cannot be written"),
        (["tasks.0.train=gone.json"], "tasks.0.train_limit=N"),
        (["model=/nowhere"], "no such folder"),
        (["method.name=seeker"], "did you mean"),
    ],
)
def test_wrong_input_is_one_line(raw: dict[str, Any], tmp_path: Path, capsys: Any, words: Any, told: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    assert main(["plan", str(tmp_path / "config.yaml"), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_an_end_token_that_is_not_the_models_is_named_before_weights_are_read(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(raw["model"], tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert any(
        "answers are trained to end with" in note for note in plan_of(raw | {"model": str(tmp_path / "model")}).notes
    )


def test_rows_that_are_not_here_are_assumed_and_said_to_be(raw: dict[str, Any]) -> None:
    raw["tasks"][1] |= {"train": "/nowhere/b.json", "train_limit": 9}
    plan = plan_of(raw)
    assert [stage.rows.known for stage in plan.stages] == [True, False]
    assert list(plan.stages[1].rows.sizes) == [(64, 63)] * 9
    assert "1 of 2 tasks" in plan.notes[0]


def test_what_a_limit_leaves_of_replay_is_planned_as_it_is_run(raw: dict[str, Any]) -> None:
    """Four rows are kept of each of three tasks: the third has two of eight, one replay step an epoch."""
    raw["tasks"].append(raw["tasks"][0] | {"name": "c"})
    raw["method"] = {"name": "replay", "replay_ratio": 0.25, "replay_passes": None, "replay_limit": 2}
    raw["training"] = TRAINING | {"num_train_epochs": 2}
    limited = plan_of(raw)
    everything = plan_of(raw | {"method": raw["method"] | {"replay_limit": None}})
    assert [stage.replay_steps for stage in limited.stages] == [0, 2, 2]
    assert [stage.replay_steps for stage in everything.stages] == [0, 2, 4]
    assert 0 < limited.stages[2].replay_tokens < everything.stages[2].replay_tokens
    assert "12 rows of past tasks with their teachers" in " ".join(totals(limited))
    assert "; a task replays 2 of them at most" in " ".join(totals(limited))
    assert "at most" not in " ".join(totals(everything))
    run = run_request(Request(resolve_paths(make_config(raw, "test"), Path.cwd())))
    tokens = [[stage.memory.length(i) for i in range(4)] for stage in run.stages if stage.memory is not None]
    plan = StepPlan(14, (4, 4), 4, 0, 2, None, 2)
    assert limited.stages[2].replay_tokens == 2 * sum(tokens[memory][i] for memory, i in plan.kept)
    assert [sum(entry.kind == "replay" for entry in stage.log) for stage in run.stages] == [0, 2, 2]
