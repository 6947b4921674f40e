"""Precision × form of the teacher × weights or adapter × method: two tasks each, remembered and held on to.

float16 is trained in on a GPU alone: on a CPU accelerate leaves it out. Here it is given there what it makes of it on a
GPU, autocast and a loss scale, so that all of it runs but the kernels of a GPU. Where there is one it runs there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from seekr import Run, Task
from seekr.attention import stored
from seekr.attention.stored import FORMS
from seekr.errors import InputError
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]

HERE = {} if torch.cuda.is_available() else {"use_cpu": True}
BF16, FP16 = {"bf16": True, **HERE}, {"fp16": True, **HERE}
FP16_ON_CPU = {"fp16": True, "use_cpu": True}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"training": BF16},
    "fp16": {"training": FP16},
    "bfloat16 weights": {"dtype": "bfloat16"},
    "bfloat16 weights, bf16": {"dtype": "bfloat16", "training": BF16},
}
FORWARD = dict(zip(PRECISIONS, ("float32", "bfloat16", "float16", "bfloat16", "bfloat16"), strict=True))
TRAINING = {"learning_rate": 1e-2, "per_device_train_batch_size": 16, "num_train_epochs": 2, "save_steps": 100}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
KEPT = {"replay_ratio": 0.25}
ATTENTION = {**KEPT, "attention_weight": 1.0, "logit_weight": 0.5, "query_budget": 6, "head_budget": 5}
METHODS: dict[str, dict[str, Any]] = {
    "replay": KEPT,
    "derpp": KEPT,
    "agem": {**KEPT, "reference_rows": 2},
    "on_policy_replay": {**ATTENTION, "teacher_form": "top", "correct_from": 0},
    "lwf": {},
    "kl_anchor": {},
    "averaging": {},
    "ewc": {"penalty_weight": 10.0, "fisher_samples": 3},
    "olora": {},
    "osf": {},
    "hft": {},
    "l2p": {"pool_size": 6, "prompt_tokens": 2, "prompts_per_input": 2},
    "progressive_prompts": {"prompt_tokens": 3},
    "lfpt5": {"prompt_tokens": 4, "pseudo_ratio": 0.5},
}
FLOOR = {"exact": 1e-7, "query_key": 5e-4, "rows": 5e-5, "top": 5e-5}
"""Nats that a form costs at most, whatever precision its teacher was read in."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The tiny model with maps that are far from uniform, and answers that come to an end."""
    folder = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("sharp") / "model")
    sharp = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in sharp.model.layers:
            layer.self_attn.q_proj.weight.mul_(15)
            layer.self_attn.k_proj.weight.mul_(15)
        sharp.model.embed_tokens.weight[:, 0] = 0.2  # a direction that every state has
        sharp.lm_head.weight[2] = 0
        sharp.lm_head.weight[2, 0] = 0.6
    sharp.save_pretrained(folder)
    return folder


@pytest.fixture
def _fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        return
    make = Accelerator.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        if self.state.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**10)

    monkeypatch.setattr(Accelerator, "__init__", init)
    monkeypatch.setattr("seekr.runs.prepare.check_fp16", lambda training: None)


def tasks() -> list[Task]:
    """Rows so long that entries of their maps lie in the bucket of the form "top", which is then the smallest."""
    words = [f"{'the quick brown fox jumps over the lazy dog again'[i:]} {i * 7 % 10}=" for i in range(12)]
    return [
        Task(name, train=[{"prompt": name + word, "answer": name * (1 + len(word) % 2)} for word in words])
        for name in "ab"
    ]


def run_of(learn: Learn, model: Path, folder: Path, precision: str, method: dict[str, Any], **more: Any) -> Run:
    settings = PRECISIONS[precision]
    training = {**TRAINING, **settings.get("training", {})}
    options = {**settings, "training": training, "model": model, "method": method, **more}
    return learn(folder, tasks(), **options)


def steps(run: Run, stage: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.stages[stage].folder / "log.jsonl").read_text().splitlines()]


def assert_finite(run: Run) -> None:
    """Every number of the log and of what is kept; in the log one that is not is null."""
    for stage in (0, 1):
        for line in steps(run, stage):
            numbers = [value for key, value in line.items() if key not in ("kind", "gradient_share")]
            assert all(value is not None and math.isfinite(value) for value in numbers), line
    for path in run.folder.glob("stages/**/*.safetensors"):
        for name, tensor in load_file(path).items():
            assert not tensor.is_floating_point() or tensor.isfinite().all(), f"{path}: {name}"


def assert_at_floor(run: Run, form: str) -> None:
    """Before the first step of the second task the attention loss of the first is what its stored form costs."""
    about = json.loads((run.stages[0].folder / "memory" / "memory.json").read_text())
    floor, first = about["facts"]["attention_floor"], steps(run, 1)[0]
    assert {kept for forms in about["forms"] for kept in forms.values()} == {form}
    assert first["kind"] == "replay"
    assert abs(floor) < FLOOR[form]
    assert first["attention"] == pytest.approx(floor, rel=0.05, abs=1e-6)
    assert max(line["attention"] for line in steps(run, 1) if line["kind"] == "replay") > 1e-3  # and then it moves


def seekr_cells() -> list[Any]:
    """Each precision with each form, by turns in full and with LoRA; what is left over is slow."""
    return [
        pytest.param(
            precision, form, lora, id=f"{precision}-{form}-{'lora' if lora else 'full'}",
            marks=[pytest.mark.slow] if (row + column) % 2 == bool(lora) or row == 4 else [],
        )
        for row, precision in enumerate(PRECISIONS)
        for column, form in enumerate([*FORMS, "auto"])
        for lora in (None, LORA)
    ]  # fmt: skip


@pytest.mark.usefixtures("_fp16_on_cpu")
@pytest.mark.parametrize(("precision", "form", "lora"), seekr_cells())
def test_attention_is_kept_and_held_on_to(
    learn: Learn, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, form: str, lora: Any
) -> None:
    """bf16 ended where the first task is remembered, in every form but "exact" and "query_key"."""
    monkeypatch.setattr(stored, "TRIFLE", 0)
    method = {"name": "seekr", **ATTENTION, "teacher_form": form}
    run = run_of(learn, model, tmp_path / "run", precision, method, lora=lora)
    assert_finite(run)
    assert_at_floor(run, "top" if form == "auto" else form)
    if form == "exact":
        (shard,) = (run.stages[0].folder / "memory").glob("teacher-*.safetensors")
        queries = {t.dtype for name, t in load_file(shard).items() if name.endswith("/query")}
        assert queries == {getattr(torch, FORWARD[precision])}


def method_cells() -> list[Any]:
    """Each method with bf16, and by turns with fp16 or weights in bfloat16; what is left over is slow."""
    fast = [{"bf16", ("fp16", "bfloat16 weights")[place % 2]} for place in range(len(METHODS))]
    return [
        pytest.param(precision, name, marks=[] if precision in some else [pytest.mark.slow])
        for name, some in zip(METHODS, fast, strict=True)
        for precision in PRECISIONS
    ]


@pytest.mark.usefixtures("_fp16_on_cpu")
@pytest.mark.parametrize(("precision", "name"), method_cells())
def test_every_other_method_that_keeps_or_records(
    learn: Learn, model: Path, tmp_path: Path, precision: str, name: str
) -> None:
    method = {"name": name, **METHODS[name]}
    if name == "osf" and PRECISIONS[precision].get("dtype"):
        with pytest.raises(InputError, match="osf needs float32"):
            run_of(learn, model, tmp_path / "run", precision, method)
        return
    run = run_of(learn, model, tmp_path / "run", precision, method)
    assert_finite(run)
    lines = steps(run, 1)
    if name in ("replay", "derpp", "agem", "on_policy_replay", "lfpt5"):
        assert json.loads((run.stages[0].folder / "memory" / "memory.json").read_text())["samples"] > 0
        assert (lines[0]["kind"] == "replay") == (name != "agem")
    if name == "on_policy_replay":
        assert_at_floor(run, "top")
    part = {"lwf": "distillation", "kl_anchor": "kl", "ewc": "ewc"}.get(name)
    if part is not None:  # nothing has moved yet
        assert abs(lines[0][part]) < 1e-5 < abs(lines[-1][part])


def test_fp16_without_a_gpu_is_refused_and_not_left_out(learn: Learn, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.fp16 needs a GPU") as raised:
        run_of(learn, model, tmp_path / "run", "fp16", {"name": "replay"}, training={**TRAINING, **FP16_ON_CPU})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_what_was_trained_in_fp16_is_scored_without_a_gpu(learn: Learn, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as gpu:
        gpu.setattr("seekr.runs.prepare.check_fp16", lambda training: None)
        run = learn(tmp_path / "run", method="sequential", training={**TRAINING, **FP16_ON_CPU})
    before = (run.folder / "scores.json").read_bytes()
    shutil.rmtree(run.folder / "predictions")
    assert (evaluate(run.folder).folder / "scores.json").read_bytes() == before


@pytest.mark.usefixtures("_fp16_on_cpu")
def test_float16_weights_cannot_be_trained_under_a_loss_scale(learn: Learn, model: Path, tmp_path: Path) -> None:
    """PyTorch would say so at the first step; an adapter's weights are float32 on whatever model."""
    with pytest.raises(InputError, match=r"dtype: float16 cannot be with training\.fp16") as raised:
        run_of(learn, model, tmp_path / "run", "fp16", {"name": "replay"}, dtype="float16")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
    assert_finite(run_of(learn, model, tmp_path / "run", "fp16", {"name": "derpp"}, dtype="float16", lora=LORA))
