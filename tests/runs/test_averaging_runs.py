"""Runs that average each stage with the one before: what is kept, stopped in between, chosen by a grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import SEEKR, TRAINING, Stop, digests
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from seekr import Run
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.methods import Ewc, Method
from seekr.methods.averaging import average_weights
from seekr.modeling.batches import collate
from seekr.modeling.losses import answer_positions
from seekr.runs import model_store

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]

LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def averaged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Tensor], dict[str, Tensor], float]]:
    """(weights before the task, trained ones, coefficient) of every averaging, while it is done as ever."""
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor], float]] = []

    def watch(model: nn.Module, before: nn.Module, coefficient: float) -> None:
        states = ({name: p.detach().clone() for name, p in one.named_parameters()} for one in (before, model))
        seen.append((*states, coefficient))  # type: ignore[arg-type]
        average_weights(model, before, coefficient)

    monkeypatch.setattr(model_store, "average_weights", watch)
    return seen


def weights(run: Run, stage: int) -> dict[str, Tensor]:
    folder = run.stages[stage].model
    assert folder is not None
    return load_file(next(folder.glob("*model.safetensors")))


RUNS: dict[str, dict[str, Any]] = {
    "averaging": {"method": {"name": "averaging", "average": 0.3}},
    "bf16 weights": {"method": "averaging", "dtype": "bfloat16"},
    "autocast": {"method": "averaging", "training": {**TRAINING, "bf16": True, "use_cpu": True}},
    "seekr": {"method": {**SEEKR, "average": 0.3}},
    "ewc": {"method": {"name": "ewc", "penalty_weight": 1.0, "average": 0.3}},
    "hft": {"method": {"name": "hft", "average": 0.3}},
    "osf": {"method": {"name": "osf", "average": 0.3}},
    "joint": {"method": {"name": "joint", "average": 0.3}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_stage_is_the_average_of_what_was_trained_and_the_stage_before(
    learn: Learn, averaged: list[Any], tiny_model_folder: Path, tmp_path: Path, name: str
) -> None:
    run = learn(tmp_path / "run", **RUNS[name])
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).state_dict()
    assert len(averaged) == len(run.stages) == (1 if name == "joint" else 2)
    for stage, (before, trained, coefficient) in enumerate(averaged):
        assert coefficient == (0.5 if name in ("bf16 weights", "autocast") else 0.3)
        start, found = base if stage == 0 else weights(run, stage - 1), weights(run, stage)
        assert any(not torch.equal(trained[key].float(), before[key].float()) for key in trained)
        for key, tensor in found.items():
            assert torch.equal(before[key], start[key].to(before[key].dtype))
            exact = (1 - coefficient) * before[key].double() + coefficient * trained[key].double()
            torch.testing.assert_close(tensor.double(), exact, rtol=torch.finfo(tensor.dtype).eps, atol=1e-7)
    assert run.record["identity"]["method"]["average"] == coefficient


def test_what_is_remembered_is_of_the_averaged_model(
    learn: Learn, averaged: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of kept rows, the forgettability of heads, and scores."""
    run = learn(tmp_path / "run", method={**SEEKR, "average": 0.4, "logit_top_k": None}, cells="seen")
    memory = run.stages[1].memory
    assert memory is not None
    model = AutoModelForCausalLM.from_pretrained(run.stages[1].model)
    for place in range(len(memory)):
        batch = collate([memory.encoded(place)], 0)
        with torch.no_grad():
            logits = model(batch["input_ids"]).logits[answer_positions(batch["labels"])].log_softmax(-1)
        kept = memory.logits(place)
        torch.testing.assert_close(logits.gather(-1, kept.ids.long()), kept.log_probs, rtol=0, atol=1e-5)
    again = (run.folder / "scores.json").read_bytes()
    for path in (run.folder / "predictions").iterdir():
        path.unlink()
    assert main(["evaluate", str(run.folder)]) == 0
    assert (run.folder / "scores.json").read_bytes() == again
    anchored = learn(tmp_path / "ewc", method=Ewc(average=0.4))
    folder = anchored.stages[0].model
    assert folder is not None
    anchors = load_file(folder / "ewc.safetensors")
    assert all(torch.equal(anchors[f"anchor.{name}"], tensor) for name, tensor in weights(anchored, 0).items())


@pytest.mark.parametrize("method", ["averaging", "olora"])
def test_an_adapter_is_averaged(learn: Learn, averaged: list[Any], tmp_path: Path, method: str) -> None:
    run = learn(tmp_path / "run", method={"name": method, "average": 0.3}, lora=LORA)
    assert len(averaged) == 2
    for stage, (before, trained, _) in enumerate(averaged):
        for key, tensor in weights(run, stage).items():
            name = key.replace(".weight", ".default.weight")
            if "lora_B" in key:
                torch.testing.assert_close(tensor, 0.7 * before[name] + 0.3 * trained[name], rtol=1e-5, atol=1e-7)
            elif stage == 0 or method == "olora":  # as exact as it can be, see test_averaging.py
                assert torch.equal(tensor, trained[name])
            if stage == 0:
                assert ("lora_B" in name) == (not before[name].any())
            else:
                earlier = weights(run, 0)[key]
                part = before[name][: len(earlier)] if "lora_A" in key else before[name][:, : earlier.shape[1]]
                assert torch.equal(part, earlier)


def test_adapters_are_averaged_on_one_base(learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second base in memory was loaded for it after each task."""
    shared = []

    def watch(model: nn.Module, before: nn.Module, coefficient: float) -> None:
        there = dict(before.named_parameters())
        shared.append([there[name] is weight for name, weight in model.named_parameters() if "lora_" not in name])
        average_weights(model, before, coefficient)

    monkeypatch.setattr(model_store, "average_weights", watch)
    learn(tmp_path / "run", method="averaging", lora=LORA)
    assert [all(one) for one in shared] == [True, True]
    assert all(shared)


@pytest.mark.parametrize("more", [{}, {"lora": {**LORA, "init_lora_weights": False}}], ids=["full", "adapter"])
def test_stopped_behind_the_averaging_is_averaged_once(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """An adapter that begins with random factors is drawn again as it was when the task began."""
    straight = learn(tmp_path / "straight", method="averaging", **more)

    def stop(*_: Any) -> None:
        raise Stop

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Method, "remember", stop)
            with pytest.raises(Stop):
                learn(tmp_path / "run", method="averaging", **more)
    run = learn(tmp_path / "run", method="averaging", **more)
    assert digests(run.folder) == digests(straight.folder)


def test_another_average_is_another_run(learn: Learn, tmp_path: Path) -> None:
    """None is what runs of before had, whose run.json says nothing of it."""
    run = learn(tmp_path / "run", "a", method="sequential")
    assert run.record["config"]["method"] == run.record["identity"]["method"] == {"name": "sequential"}
    with pytest.raises(InputError, match=r"method\.average is not set there and 0\.5 here"):
        learn(tmp_path / "run", "a", method={"name": "sequential", "average": 0.5})


def test_one_more_task_may_be_averaged_where_those_before_it_were_not(
    learn: Learn, averaged: list[Any], data_folder: Path, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", "a", method="sequential")
    assert not averaged
    words = ["learn", "--from", str(run.folder), "--task", f"b={data_folder / 'b'},max_new_tokens=3"]
    assert main([*words, "method.average=0.3"]) == 0
    ((before, _, coefficient),) = averaged
    assert coefficient == 0.3
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run, 0).items())
    further = Run(tmp_path / "run-b")
    assert further.record["identity"]["method"] == {"name": "sequential", "average": 0.3}
    assert further.record["changed"] == [{"after_stages": 1, "settings": {"method.average": [None, 0.3]}}]


def test_the_average_is_chosen_on_eval_rows(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["method"] = {"name": "sequential"}
    config["tasks"] = config["tasks"][:1]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["tune", str(path), "method.average=[null,0.25,0.75]", "--holdout", "4"]) == 0
    table = json.loads((tmp_path / "runs" / "x-tune" / "table.json").read_text())
    assert len(table["rows"]) == 3
    weights = [path.read_bytes() for path in (tmp_path / "runs" / "x-tune").glob("*/stages/*/model/*.safetensors")]
    assert len(set(weights)) == 3
    best = {None: "null"}.get(average := table["rows"][0]["settings"]["method.average"], average)
    assert capsys.readouterr().out.endswith(f"best on the eval split: method.average={best}\n")


def test_a_plan_says_what_averaging_holds(config: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    config["method"] = {"name": "averaging"}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["plan", str(path)]) == 0
    assert "average: once a task is trained" in " ".join(capsys.readouterr().out.split())
    assert main(["learn", str(path), "--dry-run"]) == 0
    assert "averaging: average 0.5" in capsys.readouterr().out
    assert main(["learn", str(path), "method.name=sequential", "--dry-run"]) == 0
    assert "average" not in capsys.readouterr().out
