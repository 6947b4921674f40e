"""O-LoRA, orthogonal subspace fine-tuning and on-policy replay in whole runs: stopped, gone on from, with skills."""

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
from transformers import AutoModelForCausalLM

import seekr
import seekr.modeling.loading
from seekr import Run, Task
from seekr.cli.main import main
from seekr.errors import InputError

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]

OWN = {"name": "on_policy_replay", "replay_ratio": 0.3, "correct_from": 0}  # an answer that ends is taken
OWN_TRAINING = {**TRAINING, "num_train_epochs": 6}
OWN_LORA = {  # and that learns enough for answers to end
    "r": 8, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"],
}  # fmt: skip
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "olora": {"method": {"name": "olora", "orthogonality_weight": 2.0}, "lora": LORA},
    "osf": {"method": "osf"},
    "on_policy_replay": {
        "method": {**OWN, "attempts": 2, "attention_weight": 10.0, "query_budget": 4}, "training": OWN_TRAINING,
    },
    "on_policy_replay-lora": {
        "method": {**OWN, "attempts": 2, "logit_weight": 0.5}, "training": OWN_TRAINING, "lora": OWN_LORA,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def learn(learn: Learn, task: MakeTask) -> Learn:
    """As everywhere, with room for an answer to end: a blank, two letters, the end token."""

    def run(output_dir: Path, tasks: Any = "ab", **more: Any) -> Run:
        made = [task(item, max_new_tokens=5) if isinstance(item, str) else item for item in tasks]
        return learn(output_dir, made, **more)

    return run


@pytest.fixture(scope="module", params=list(RUNS))
def never_stopped(request: pytest.FixtureRequest, learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings, and a run on tasks a, b and c with them."""
    settings = RUNS[request.param]
    return settings, learn(tmp_path_factory.mktemp(request.param) / "run", "abc", **settings)


def test_stopped_and_resumed_is_never_stopped(never_stopped: Any, learn: Learn, tmp_path: Path) -> None:
    settings, straight = never_stopped
    for task, step in ((0, 3), (1, 3), (1, 3)):  # counted from the task that is resumed, at its second step
        with pytest.raises(Stop):
            learn(tmp_path / "run", "abc", callbacks=[StopAt(task, step)], **settings)
    run = learn(tmp_path / "run", "abc", **settings)
    assert digests(run.folder) == digests(straight.folder)
    assert digests(run.folder, "stages/*/log.jsonl") == digests(straight.folder, "stages/*/log.jsonl")
    assert digests(run.folder, "**/scores.json") == digests(straight.folder, "**/scores.json")


def test_the_last_stage_is_enough_to_go_on_from(never_stopped: Any, learn: Learn, tmp_path: Path) -> None:
    settings, straight = never_stopped
    learn(tmp_path / "run", "ab", keep_stages="last", **settings)
    run = learn(tmp_path / "run", "abc", keep_stages="last", **settings)
    assert [stage.model is not None for stage in run.stages] == [False, False, True]
    expected = digests(straight.folder)
    assert digests(run.folder) == {path: expected[path] for path in digests(run.folder)}


def test_a_skill_comes_first(never_stopped: Any, learn: Learn, task: MakeTask, tmp_path: Path) -> None:
    settings, _ = never_stopped
    run = learn(tmp_path / "run", [task("c", learn=False, max_new_tokens=5), "a"], **settings)
    assert [stage.name for stage in run.stages] == ["c", "a"]
    assert run.stages[1].model is not None


def test_own_answers_are_among_what_is_replayed(never_stopped: Any) -> None:
    settings, run = never_stopped
    replays_own = settings["method"] != "osf" and settings["method"]["name"] == "on_policy_replay"
    own = [stage.memory.summary().get("own_answers", 0) if stage.memory else 0 for stage in run.stages]
    assert [count > 0 for count in own] == [replays_own] * len(run.stages)


def test_every_stage_loads_by_itself(never_stopped: Any, tiny_model_folder: Path) -> None:
    """By plain transformers, or plain peft on the base model; and it is what answered."""
    settings, run = never_stopped
    ids = torch.arange(3, 20)[None]
    method = seekr.methods.make_method(settings["method"])
    for stage in run.stages:
        if (stage.model / "adapter_config.json").is_file():
            assert sorted(path.name for path in stage.model.iterdir() if path.is_dir()) == []
            plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_folder), stage.model)
        else:
            plain = AutoModelForCausalLM.from_pretrained(stage.model)
        loaded = method.form.load(str(tiny_model_folder), stage.model, dtype="float32")
        assert torch.equal(plain.eval()(ids).logits, loaded(ids).logits)


def test_gone_on_from_with_one_more_task(never_stopped: Any, learn: Learn, data_folder: Path, tmp_path: Path) -> None:
    settings, straight = never_stopped
    first = learn(tmp_path / "run", "ab", **settings)
    assert main(["learn", "--from", str(first.folder), "--task", f"c={data_folder / 'c'},max_new_tokens=5"]) == 0
    expected = digests(straight.folder)
    copied = digests(tmp_path / "run-c")
    assert copied == {path: expected[path] for path in copied}
    assert {path for path in copied if path.startswith("stages/02-c")} == {
        p for p in expected if p.startswith("stages/02")
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "olora", "lora": {"use_dora": True}},
            r"lora\.use_dora: olora joins plain LoRA adapters; it takes r, lora_alpha",
        ),
        ({"method": "olora", "lora": {"use_rslora": True}}, r"lora\.use_rslora: olora joins plain LoRA"),
        ({"method": "olora", "lora": {"bias": "all"}}, r"lora\.bias: olora joins plain LoRA adapters"),
        ({"method": "olora", "lora": {"modules_to_save": ["lm_head"]}}, r"lora\.modules_to_save: olora joins plain"),
        ({"method": "olora", "lora": {"target_module": ["x"]}}, "did you mean 'target_modules'"),
        ({"method": "olora", "lora": False}, "lora: false cannot be with olora"),  # in Python as in a configuration
        ({"method": "osf", "lora": {"r": 2}}, "lora: osf brings an adapter of its own"),
        ({"method": "osf", "dtype": "bfloat16"}, "dtype: osf needs float32"),  # known without the model
        ({"method": {"name": "osf", "kept_rank": 1.0}}, r"method\.kept_rank: input should be less than 1"),
        ({"method": {"name": "osf", "kept_rank": []}}, r"method\.kept_rank"),
        ({"method": {"name": "on_policy_replay", "attempts": 0}}, r"method\.attempts"),
        ({"method": {"name": "on_policy_replay", "correct_from": 101}}, r"method\.correct_from"),
    ],
)
def test_refused_before_any_model_is_loaded(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(seekr.modeling.loading, "load_model", never)
    with pytest.raises(InputError, match=said) as caught:
        learn(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_lora_false_is_refused_by_the_command_line(
    data_folder: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data_folder / "a" / "train.json"
    tasks = f"tasks: [{{name: a, train: {rows}}}]\noutput_dir: {tmp_path / 'run'}\n"
    (tmp_path / "config.yaml").write_text(f"model: {tiny_model_folder}\nmethod: {{name: olora}}\nlora: false\n{tasks}")
    assert main(["learn", str(tmp_path / "config.yaml")]) == 2
    assert "lora: false cannot be with olora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "olora", "lora": {"target_modules": ["embed_tokens"]}},
            r"lora\.target_modules: olora adapts linear",
        ),
        ({"method": {"name": "osf", "kept_rank": [0.5, 0.01]}}, r"method\.kept_rank: 0\.01 of 16 directions is less"),
    ],
)
def test_what_the_model_cannot_is_refused_before_anything_is_written(
    learn: Learn, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        learn(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["seekr", "on_policy_replay"])
def test_attention_of_a_task_is_its_own_before_the_first_step_of_the_next_with_lora(
    learn: Learn, tmp_path: Path, name: str
) -> None:
    """Every row is kept, so a replay step comes before any task step."""
    method = {
        "name": name, "replay_ratio": 1.0, "attention_weight": 1.0, "logit_weight": 0.5, "query_budget": None,
        "teacher_form": "exact",
    }  # fmt: skip
    if name == "on_policy_replay":
        method["correct_from"] = 0
    run = learn(tmp_path / "run", "ab", method=method, lora={"r": 4}, training={**TRAINING, "num_train_epochs": 2})
    lines = [json.loads(line) for line in (run.stages[1].folder / "log.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "replay"
    assert lines[0]["attention"] < 1e-6
    assert max(line["attention"] for line in lines if line["kind"] == "replay") > 1e-5


def test_own_answers_are_told(learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = {**OWN, "replay_ratio": 0.5, "attempts": 3}
    run = learn(tmp_path / "run", "ab", method=method, training=OWN_TRAINING)
    kept = [json.loads((stage.folder / "memory" / "memory.json").read_text()) for stage in run.stages]
    own = [about["facts"]["own_answers"] for about in kept]
    assert all(0 < count <= about["samples"] for count, about in zip(own, kept, strict=True))
    assert not list(run.folder.glob("stages/*/importance.safetensors"))  # nothing is measured that has no weight
    assert main(["memory", str(run.folder)]) == 0
    assert f"in place of stored ones: a {own[0]} of 7, b {own[1]} of 7" in capsys.readouterr().out


def test_a_stage_of_olora_is_one_adapter_of_all_tasks(learn: Learn, tmp_path: Path) -> None:
    run = learn(tmp_path / "run", "abc", method="olora", lora=LORA)
    past: dict[str, torch.Tensor] = {}
    for index, stage in enumerate(run.stages):
        about = json.loads((stage.model / "adapter_config.json").read_text())
        assert (about["r"], about["lora_alpha"]) == (2 * (index + 1), 8 * (index + 1))
        weights = load_file(stage.model / "adapter_model.safetensors")
        for key, old in past.items():  # what earlier tasks learned stands there bit for bit
            now = weights[key][: len(old)] if "lora_A" in key else weights[key][:, : old.shape[1]]
            assert torch.equal(now, old)
        past = weights


def test_olora_subspaces_are_orthogonal_behind_training(learn: Learn, tmp_path: Path) -> None:
    def overlap(weight: float) -> float:
        """The largest cosine between a direction of one task's A and one of another's, over modules."""
        method = {"name": "olora", "orthogonality_weight": weight}
        training = {**TRAINING, "num_train_epochs": 25, "max_grad_norm": 0.0}
        run = learn(tmp_path / f"{weight}", "abc", method=method, lora={"r": 2}, training=training, cells="paper")
        weights = load_file(run.stages[2].model / "adapter_model.safetensors")
        cosines = []
        for key, a in weights.items():
            if "lora_A" in key:
                bases = [torch.linalg.qr(a[start : start + 2].T)[0] for start in (0, 2, 4)]
                cosines += [torch.linalg.matrix_norm(bases[i].T @ bases[j], 2) for i, j in ((0, 1), (0, 2), (1, 2))]
        return float(torch.stack(cosines).max())

    assert overlap(0.0) > 0.3
    assert overlap(5.0) < 0.02
