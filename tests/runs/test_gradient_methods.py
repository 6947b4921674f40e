"""Whole runs of ewc, lwf, kl_anchor, agem and hft: stopped, resumed, accumulated, on two processes, with adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TRAINING, Stop, StopAt, digests
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from two_processes import run_two

import seekr
from seekr import Run, Task
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.methods import AGem, Objective, TaskContext
from seekr.methods.agem import Projected
from seekr.modeling.batches import collate
from seekr.modeling.losses import answer_cross_entropy, answer_positions

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]

METHODS: dict[str, dict[str, Any]] = {
    "ewc": {"name": "ewc", "penalty_weight": 1.0, "fisher_samples": 5},
    "lwf": {"name": "lwf", "distillation_weight": 2.0},
    "kl_anchor": {"name": "kl_anchor", "kl_weight": 2.0},
    "agem": {"name": "agem", "replay_ratio": 0.5, "reference_rows": 5},
    "hft": {"name": "hft"},
}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
PLAIN = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 1, "max_grad_norm": 0, "save_steps": 100}
TRAINED = {**TRAINING, "num_train_epochs": 3}
LONGER = {"num_train_epochs": 4, "learning_rate": 0.2}  # PLAIN steps that learn a task, so that the next one's conflict
ROUNDING = {"agem": 2e-4}  # of weights: over these steps that of sequential training grows as far


def contradicting() -> list[Task]:
    """Two tasks that give every prompt another answer: gradients of the second go against the first."""
    return [
        Task(name, train=[{"prompt": f"{i * 7 % 10}=", "answer": name * 2} for i in range(14)], max_new_tokens=3)
        for name in "pq"
    ]


def plain(name: str) -> dict[str, Any]:
    """Training without what would blow up rounding: plain gradient steps."""
    return PLAIN | LONGER if name == "agem" else PLAIN


def log(run: Run, stage: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.stages[stage].folder / "log.jsonl").read_text().splitlines()]


def weights(run: Run, stage: int = -1) -> dict[str, Tensor]:
    folder = run.stages[stage].model
    assert folder is not None
    return load_file(next(path for path in folder.glob("*model.safetensors")))


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=atol)


@pytest.fixture(scope="module")
def whole(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Runs on the contradicting tasks that were never stopped, one a method. Not to be written to."""
    runs: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in runs:
            runs[name] = learn(
                tmp_path_factory.mktemp(name) / "run", contradicting(), method=METHODS[name], training=TRAINED
            )
        return runs[name]

    return run


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("task_and_step", [(0, 3), (1, 7)])
def test_stopped_and_resumed_is_never_stopped(
    whole: Callable[[str], Run], learn: Learn, tmp_path: Path, name: str, task_and_step: tuple[int, int]
) -> None:
    with pytest.raises(Stop):
        learn(
            tmp_path / "run",
            contradicting(),
            method=METHODS[name],
            training=TRAINED,
            callbacks=[StopAt(*task_and_step)],
        )
    run = learn(tmp_path / "run", contradicting(), method=METHODS[name], training=TRAINED)
    assert digests(run.folder) == digests(whole(name).folder)
    assert digests(run.folder, "stages/*/log.jsonl") == digests(whole(name).folder, "stages/*/log.jsonl")


@pytest.mark.parametrize("name", METHODS)
def test_accumulating_is_a_bigger_batch(learn: Learn, tmp_path: Path, name: str) -> None:
    runs = []
    for size, steps in ((4, 1), (1, 4), (2, 2)):
        training = {**plain(name), "per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        runs.append(learn(tmp_path / f"{size}", contradicting(), method=METHODS[name], training=training))
    for other in runs[1:]:
        assert_close(weights(runs[0]), weights(other), ROUNDING.get(name, 1e-5))
        for one, two in zip(log(runs[0], 1), log(other, 1), strict=True):
            for part in one.keys() - {"kind", "gradient_share"}:
                assert one[part] == pytest.approx(two[part], rel=1e-3, abs=ROUNDING.get(name, 1e-5))


@pytest.mark.parametrize("name", ["ewc", "lwf", "kl_anchor", "agem"])
def test_with_an_adapter(learn: Learn, tmp_path: Path, name: str) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", method=METHODS[name], lora=LORA, callbacks=[StopAt(1, 3)])
    run = learn(tmp_path / "run", method=METHODS[name], lora=LORA)
    straight = learn(tmp_path / "straight", method=METHODS[name], lora=LORA)
    assert digests(run.folder) == digests(straight.folder)
    plain = learn(tmp_path / "plain", method="sequential", lora=LORA)
    assert any(not torch.equal(one, weights(plain)[key]) for key, one in weights(run).items())


@pytest.mark.parametrize("name", METHODS)
def test_the_method_changes_what_is_learned(
    whole: Callable[[str], Run], learn: Learn, tmp_path: Path, name: str
) -> None:
    run = whole(name)
    plain = learn(tmp_path / "run", contradicting(), method="sequential", training=TRAINED)
    assert any(not torch.equal(one, weights(plain)[key]) for key, one in weights(run).items())
    if name not in ("hft", "kl_anchor"):  # the first task has nothing before it
        assert all(torch.equal(one, weights(plain, 0)[key]) for key, one in weights(run, 0).items())
    assert all(line["kind"] == "task" for line in log(run, 1))
    assert (run.stages[0].memory is not None) == (name == "agem")
    assert not (run.folder / "working").exists()
    AutoModelForCausalLM.from_pretrained(run.stages[1].model)


def test_parts_of_the_loss_begin_at_zero(whole: Callable[[str], Run]) -> None:
    for name, part in (("ewc", "ewc"), ("lwf", "distillation"), ("kl_anchor", "kl")):
        values = [line[part] for line in log(whole(name), 1)]
        assert abs(values[0]) < 1e-5
        assert min(values[1:]) > 1e-5
        first = [line.get(part, 0.0) for line in log(whole(name), 0)]
        assert abs(first[0]) < 1e-5
        assert (max(first) > 1e-5) == (name == "kl_anchor")  # which the base model anchors


@pytest.mark.parametrize(("name", "part"), [("lwf", "distillation"), ("kl_anchor", "kl")])
@pytest.mark.parametrize("more", [{}, {"bf16": True, "use_cpu": True}, {"dtype": "bfloat16"}], ids=str)
def test_old_answers_are_recorded_in_the_precision_of_training(
    learn: Learn, tmp_path: Path, name: str, part: str, more: dict[str, Any]
) -> None:
    """A model that does not move has nothing to be distilled; recorded in float32 and trained in bfloat16 it had."""
    dtype = {key: value for key, value in more.items() if key == "dtype"}
    training = {**TRAINING, "learning_rate": 0.0, **({} if dtype else more)}
    run = learn(tmp_path / "run", method=METHODS[name], training=training, **dtype)
    values = [abs(line[part]) for line in log(run, 1)]
    assert max(values) < (3e-5 if more else 1e-5)


@pytest.mark.parametrize("name", ["ewc", "agem"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_mixed_precision_and_checkpointing(learn: Learn, tmp_path: Path, name: str, lora: Any) -> None:
    training = {**TRAINING, "bf16": True, "use_cpu": True, "gradient_checkpointing": True}
    run = learn(tmp_path / "run", method=METHODS[name], training=training, lora=lora)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_older_fisher_information_goes_with_its_weights(
    whole: Callable[[str], Run], learn: Learn, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", "abc", method=METHODS["ewc"], keep_stages="last")
    assert [path.parent.parent.name for path in run.folder.glob("stages/*/model/ewc.safetensors")] == ["02-c"]
    straight = learn(tmp_path / "straight", "abc", method=METHODS["ewc"])
    assert all(torch.equal(one, weights(straight)[key]) for key, one in weights(run).items())
    kept = [path.stat().st_size for path in sorted(straight.folder.glob("stages/*/model/ewc.safetensors"))]
    assert len(set(kept)) == 1
    model = AutoModelForCausalLM.from_pretrained(straight.stages[0].model)
    assert 8 <= kept[0] / sum(p.numel() for p in model.parameters()) < 8.5  # two float32 a weight


@pytest.mark.parametrize("name", METHODS)
def test_one_more_task_on_top_of_a_finished_run(learn: Learn, data_folder: Path, tmp_path: Path, name: str) -> None:
    """`--from` copies the newest weights alone, and what a method keeps beside them."""
    straight = learn(tmp_path / "straight", "abc", method=METHODS[name])
    first = learn(tmp_path / "run", "ab", method=METHODS[name])
    assert main(["learn", "--from", str(first.folder), "--task", f"c={data_folder / 'c'},max_new_tokens=3"]) == 0
    copied, expected = digests(tmp_path / "run-c"), digests(straight.folder)
    assert copied == {path: expected[path] for path in copied}
    assert any(path.startswith("stages/02-c/model") for path in copied)


@pytest.mark.parametrize("name", METHODS)
def test_a_skill_before_the_first_task(learn: Learn, task: MakeTask, tmp_path: Path, name: str) -> None:
    run = learn(tmp_path / "run", ["b", task("c", learn=False)], method=METHODS[name])
    assert run.stages[0].model is None
    parts = log(run, 1)[-1]
    assert {"ewc": "ewc", "lwf": "distillation", "kl_anchor": "kl"}.get(name, "task") in parts
    if name == "agem":  # here the skill's gradients are never against the task's
        assert run.stages[0].memory is not None
        return
    plain = learn(tmp_path / "plain", ["b", task("c", learn=False)], method="sequential")
    assert any(not torch.equal(one, weights(plain)[key]) for key, one in weights(run).items())


def test_a_skill_that_an_adapter_cannot_hold_on_to_is_refused_before_it_is_measured(
    learn: Learn, task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("seekr.modeling.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
        with pytest.raises(InputError, match="; leave lora out, or the skill") as caught:
            learn(tmp_path / "run", ["b", task("c", learn=False)], method="ewc", lora=LORA)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    learn(tmp_path / "lwf", ["b", task("c", learn=False)], method="lwf", lora=LORA)


def test_no_step_of_a_real_run_goes_against_the_kept_rows(learn: Learn, tmp_path: Path) -> None:
    angles: list[tuple[float, float]] = []

    class WatchedProjection(Projected):
        def after_backward(self, model: nn.Module, step: int) -> None:
            before = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
            super().after_backward(model, step)
            if not self.kept:
                return
            after = [parameter.grad for parameter in model.parameters()]
            batch = collate([self.kept[memory].encoded(row) for memory, row in self.reference(step)], 0)
            labels = batch.pop("labels")
            logits = model(**batch).logits[answer_positions(labels)]
            loss = answer_cross_entropy(logits, labels, torch.ones(len(labels)))
            reference = torch.autograd.grad(loss, list(model.parameters()))
            angles.append((cosine(before, reference), cosine(after, reference)))
            if angles[-1][0] >= 0:
                assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))

    class Watched(AGem):
        def start(self, context: TaskContext) -> Objective:
            return WatchedProjection(self, context)

    training = {**PLAIN, **LONGER, "per_device_train_batch_size": 4}
    learn(tmp_path / "run", contradicting(), method=Watched(replay_ratio=0.5, reference_rows=6), training=training)
    assert min(before for before, _ in angles) < -0.01
    assert max(before for before, _ in angles) > 0.01
    assert min(after for _, after in angles) > -1e-5


def cosine(one: Any, two: Any) -> float:
    flat = [torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (one, two)]
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))


def test_the_frozen_half_is_left_bit_for_bit(learn: Learn, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Weight decay does not touch it either; the next task leaves another half."""
    run = learn(tmp_path / "run", method="hft", training={**TRAINING, "weight_decay": 0.1})
    states = [load_file(tiny_model_folder / "model.safetensors"), weights(run, 0), weights(run, 1)]
    halves = []
    for before, after in pairwise(states):
        halves.append({name for name in before if torch.equal(before[name], after[name])})
        sizes = {name: tensor.numel() for name, tensor in before.items() if ".layers." in name}
        assert halves[-1] <= sizes.keys()
        assert 0.3 < sum(sizes[name] for name in halves[-1]) / sum(sizes.values()) < 0.7
    assert halves[0] != halves[1]


@pytest.mark.parametrize(
    ("method", "lora", "said"),
    [
        ({"name": "hft"}, LORA, "lora: hft trains the weights of the model itself"),
        ({"name": "hft", "ratio": 0.5}, None, "method.ratio: hft has no such setting; valid are average"),
        ({"name": "ewc", "penalty_weight": -1}, None, "method.penalty_weight"),
        ({"name": "ewc", "fisher_samples": 0}, None, "method.fisher_samples"),
        ({"name": "ewc", "penalty": 1}, None, "did you mean 'penalty_weight'?"),
        ({"name": "lwf", "temperature": 0}, None, "method.temperature"),
        ({"name": "lwf", "distillation_weight": float("inf")}, None, "method.distillation_weight"),
        ({"name": "lwf", "logit_top_k": 0}, None, "method.logit_top_k"),
        ({"name": "kl_anchor", "kl_weight": -0.1}, None, "method.kl_weight"),
        ({"name": "kl_anchor", "temperature": 2.0}, None, "method.temperature: kl_anchor has no such setting"),
        ({"name": "agem", "reference_rows": 0}, None, "method.reference_rows"),
        ({"name": "agem", "replay_ratio": 0}, None, "method.replay_ratio"),
        ({"name": "agem", "logit_weight": 0.5}, None, "method.logit_weight: agem has no such setting"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any, lora: Any, said: str
) -> None:
    monkeypatch.setattr("seekr.modeling.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InputError) as caught:
        learn(tmp_path / "run", method=method, lora=lora)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ewc", "agem"])
@pytest.mark.parametrize("launched", [True, False])
@pytest.mark.parametrize("sharding", ["FSDP", "DeepSpeed"])
def test_parts_of_a_model_are_refused_by_what_needs_it_whole(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, launched: bool, sharding: str
) -> None:
    monkeypatch.setattr("seekr.modeling.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr("seekr.runs.prepare.check_training", lambda training: training)  # DeepSpeed is not installed
    if launched:
        monkeypatch.setenv(f"ACCELERATE_USE_{sharding.upper()}", "true")
    training = TRAINING if launched else {**TRAINING, sharding.lower(): "full_shard"}
    with pytest.raises(InputError, match=f"method {name}: it needs parameters .* {sharding} cuts them up") as caught:
        learn(tmp_path / "run", method=METHODS[name], training=training)
    assert "\n" not in str(caught.value)


# Two data-parallel processes (gloo) -----------------------------------------------------------------------------


def work(folder: Path, model: Path) -> None:
    """What each process does."""
    for name, settings in METHODS.items():
        training = {**plain(name), "per_device_train_batch_size": 2, "use_cpu": True}
        seekr.learn(model=model, tasks=contradicting(), output_dir=folder / name, method=settings, training=training)


def test_two_processes_learn_what_one_learns(learn: Learn, tiny_model_folder: Path, tmp_path: Path) -> None:
    run_two(__file__, tmp_path / "two", tiny_model_folder)
    for name, settings in METHODS.items():
        training = {**plain(name), "per_device_train_batch_size": 4}
        one = learn(tmp_path / name, contradicting(), method=settings, training=training)
        assert_close(weights(Run(tmp_path / "two" / name)), weights(one), ROUNDING.get(name, 1e-5))
        for line, wanted in zip(log(Run(tmp_path / "two" / name), 1), log(one, 1), strict=True):
            assert line.keys() == wanted.keys()
            assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


if __name__ == "__main__":
    work(*map(Path, sys.argv[1:]))
