"""The methods' losses, cut into micro-batches in any way, against plain definitions; what they keep and choose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_tasks import context, learn_stages, replay_batch, toy_samples

import seekr.methods
from seekr import measure_change, measure_sensitivity, select_heads
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.heads import head_importance, resolve_budgets
from seekr.errors import InputError
from seekr.methods import METHODS, Derpp, Method, Objective, Replay, Seekr, Sequential, make_method
from seekr.methods.form import ModelForm
from seekr.methods.general_replay import GeneralReplay
from seekr.methods.seekr import AttentionReplay
from seekr.modeling.batches import MicroBatch, Row, collate
from seekr.modeling.losses import answer_cross_entropy, answer_positions


def exact(**changes: Any) -> dict[str, Any]:
    settings = {"name": "seekr", "replay_ratio": 0.25, "teacher_form": "exact", "logit_top_k": None}
    return settings | {"head_budget": 4, "attention_weight": 10.0} | changes


def model_line(count: int) -> list[nn.Module]:
    """States of one model over tasks."""
    models = [by_definition.tiny_llama()]
    for _ in range(count):
        models.append(by_definition.moved(models[-1], 0.2))
    return models


def two_tasks(method: Method, folder: Path) -> tuple[Any, nn.Module]:
    """Two finished tasks whose memories have heads of their own: the objective and the model of the next one."""
    models = model_line(3)
    stages = [(models[0], models[1], toy_samples(12)), (models[1], models[2], toy_samples(9, seed=1))]
    return learn_stages(method, folder, stages), models[3]


def all_rows(objective: Objective) -> list[Row]:
    return [(memory, sample) for memory, kept in enumerate(objective.memories) for sample in range(len(kept))]


def step(
    objective: Objective, model: nn.Module, cuts: Sequence[Sequence[Row]]
) -> tuple[dict[str, float], list[Tensor]]:
    """Summed parts and gradients of one replay step, cut into micro-batches."""
    step_rows = [row for cut in cuts for row in cut]
    parts: dict[str, float] = {}
    model.zero_grad()
    for cut in cuts:
        found = objective.replay_loss(model, replay_batch(objective, cut, step_rows))
        torch.stack(list(found.values())).sum().backward()
        for name, value in found.items():
            parts[name] = parts.get(name, 0.0) + value.item()
    return parts, [p.grad.clone() for p in model.parameters() if p.grad is not None]


# What a configuration says ---------------------------------------------------------------------------------------


def test_methods_by_name_and_settings() -> None:
    files = {path.stem for path in Path(seekr.methods.__file__).parent.glob("*.py")}
    assert set(METHODS) == files - {"__init__", "base", "costs", "form", "responses", "soft_prompts"}
    for name, kind in METHODS.items():
        assert type(make_method(name)) is kind
        method = make_method({"name": name})
        assert make_method(method.settings()) == method
        assert json.loads(json.dumps(method.settings())) == method.settings()
        assert make_method(method) is method
    assert make_method({"name": "seekr", "replay_ratio": 1}).settings()["replay_ratio"] == 1.0
    assert make_method("joint").joint
    with pytest.raises(FrozenInstanceError):
        make_method("seekr").replay_ratio = 0.5  # type: ignore[attr-defined]
    assert not make_method("sequential").replays


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("sekr", "method.name: 'sekr' is no method; did you mean 'seekr'?"),
        ({"name": ["seekr"]}, "is no method"),
        (["seekr"], "neither a name nor a mapping"),
        (None, "neither a name nor a mapping"),
        ({"name": "seekr", "replay_rato": 1}, "method.replay_rato: .* did you mean 'replay_ratio'?"),
        ({"name": "sequential", "replay_ratio": 0.1}, "sequential has no such setting; valid are average$"),
        (
            {"name": "replay", "logit_weight": 0.1},
            "replay has no such setting; valid are average, replay_choice, repl",
        ),
        ({"name": "replay", "replay_ratio": 0}, "method.replay_ratio: input should be greater than 0, not 0"),
        ({"name": "replay", "replay_ratio": 1.01}, "less than or equal to 1, not 1.01"),
        ({"name": "replay", "replay_ratio": "0.1"}, "should be a valid number, not '0.1'"),
        ({"name": "replay", "replay_ratio": float("nan")}, "method.replay_ratio"),
        ({"name": "derpp", "logit_weight": 1.5}, "method.logit_weight"),
        ({"name": "derpp", "logit_top_k": 0}, "method.logit_top_k"),
        ({"name": "seekr", "layer_budget": 0}, "method.layer_budget"),
        ({"name": "seekr", "head_budget": 2.5}, "method.head_budget: input should be a valid integer, not 2.5"),
        ({"name": "seekr", "query_budget": True}, "method.query_budget"),
        ({"name": "seekr", "attention_weight": float("inf")}, "method.attention_weight"),
        ({"name": "seekr", "norm": "l1"}, "method.norm: input should be 'frobenius' or 'mean_square', not 'l1'"),
        ({"name": "seekr", "teacher_form": "maps"}, "method.teacher_form"),
        ({"name": "seekr", "reduction": "mean"}, "method.reduction"),
    ],
)
def test_settings_that_make_no_method(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make_method(settings)
    assert "\n" not in str(caught.value)


def test_budgets_and_family_are_checked_before_training() -> None:
    model = by_definition.tiny_llama()
    Seekr(layer_budget=3, head_budget=12).check_model(model)
    for settings in ({"layer_budget": 4}, {"head_budget": 13}, {"layer_budget": 1, "head_budget": 5}):
        with pytest.raises(InputError, match="budget="):
            Seekr(**settings).check_model(model)
    Derpp().check_model(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("adapter", "lora", "found"),
    [
        ("any", None, None), ("any", False, None), ("any", {}, {}), ("any", {"r": 4}, {"r": 4}),
        ("none", None, None), ("none", False, None), ("none", {}, "trains the weights of the model itself"),
        ("lora", None, {}), ("lora", {"r": 4}, {"r": 4}), ("lora", False, "lora: false cannot be with other"),
        ("own", None, None), ("own", False, "brings an adapter of its own"), ("own", {"r": 4}, "takes no other one"),
    ],
)  # fmt: skip
def test_which_adapter_a_method_trains(adapter: Any, lora: Any, found: Any) -> None:
    form = ModelForm(SimpleNamespace(name="other"))
    form.adapter = adapter
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            form.lora_settings(lora)
    else:
        assert form.lora_settings(lora) == found


# What is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "rows", "kept"),
    [(0.01, 10, 1), (0.01, 149, 1), (0.01, 250, 2), (1.0, 7, 7), (None, 7, 7), (None, 240, 20), (None, 4900, 49)],
)
def test_kept_rows(ratio: float | None, rows: int, kept: int) -> None:
    assert Replay(replay_ratio=ratio).kept_rows(rows) == kept
    assert Sequential().kept_rows(rows) == 0


def test_a_ratio_that_keeps_fewer_rows_than_the_default_is_said() -> None:
    rows = {"a": 240, "b": 1900, "c": 5000, "d": 2}
    (said,) = Replay(replay_ratio=0.01).advice(rows)
    assert "replay_ratio=0.01 keeps 1 to 19 rows of each of 3 tasks" in said
    assert "keeps 2 rows of task a:" in Replay(replay_ratio=0.01).advice({"a": 240, "c": 5000})[0]
    for method in (Replay(), Replay(replay_ratio=0.5), Sequential(), GeneralReplay(replay_ratio=0.01)):
        assert method.advice({"a": 240, "c": 5000, "d": 1}) == []


def test_kept_samples_are_drawn_by_seed_and_task_or_the_first(tmp_path: Path) -> None:
    samples, model = toy_samples(50), nn.Linear(1, 1)

    def kept(choice: Any, **changes: Any) -> list[int]:
        chosen = Replay(replay_ratio=0.2, replay_choice=choice).kept_samples(
            context(tmp_path, model, samples, **changes)
        )
        return [next(i for i, one in enumerate(samples) if one is sample) for sample in chosen]

    assert kept("first") == list(range(10))
    drawn = kept("random")
    assert drawn == sorted(set(drawn)) == kept("random")
    assert len(drawn) == 10
    assert drawn != kept("random", seed=1) != kept("random", index=1)
    both = Seekr(replay_ratio=0.2).kept_samples(context(tmp_path, model, samples))
    assert [id(one) for one in both] == [id(samples[i]) for i in drawn]


def test_drawn_queries() -> None:
    draw = np.random.default_rng(0)
    method = Seekr(query_budget=5)
    assert method.drawn_queries(5, draw) is None
    assert Seekr(query_budget=None).drawn_queries(100, draw) is None
    found = method.drawn_queries(9, draw)
    assert found is not None
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 5
    assert max(found) < 9


@pytest.mark.parametrize("name", ["replay", "derpp", "seekr"])
def test_the_same_task_is_remembered_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    models, samples = model_line(1), toy_samples(8)
    files: list[dict[str, bytes]] = []
    for attempt in ("one", "two"):
        torch.manual_seed(len(files))
        stage = context(tmp_path / attempt, models[1], samples, before=lambda: models[0])
        make_method({"name": name, "replay_ratio": 0.5}).remember(stage)
        files.append({str(p.relative_to(stage.folder)): p.read_bytes() for p in stage.folder.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert ("heads.json" in files[0]) == (name == "seekr")


# The loss of a replay step ---------------------------------------------------------------------------------------


def plain_parts(objective: Any, model: nn.Module, rows: Sequence[Row]) -> dict[str, float]:
    """The parts of a replay step sample by sample, as the design writes them."""
    method = objective.method
    tokens, replay, logit = 0, 0.0, 0.0
    divergences: dict[tuple[Row, int], float] = {}
    for row in rows:
        memory = objective.memories[row[0]]
        batch = collate([memory.encoded(row[1])], 0)
        logits = model(**by_definition.inputs_of(batch)).logits
        positions = (batch["labels"][0, 1:] != -100).nonzero().flatten()
        tokens += len(positions)
        replay += float(answer_cross_entropy(logits[answer_positions(batch["labels"])], batch["labels"], torch.ones(1)))
        logit += float(memory.logits(row[1]).cross_entropy(logits[0, positions]).sum())
        for layer, heads in memory.heads.items():
            loss = attention_distillation_loss(model, [memory.attention(row[1])], batch, {layer: heads})
            divergences[row, layer] = float(loss)
    if method.reduction == "per_sample":
        by_sample = [[value for (row, _), value in divergences.items() if row == one] for one in rows]
        attention = float(np.mean([np.mean(values) for values in by_sample]))
    else:
        layers = sorted({layer for _, layer in divergences})
        by_layer = [[value for (_, layer), value in divergences.items() if layer == one] for one in layers]
        attention = float(np.mean([np.mean(values) for values in by_layer]))
    weight = method.logit_weight
    return {
        "replay": (1 - weight) * replay / tokens,
        "logit": weight * logit / tokens,
        "attention": method.attention_weight * attention,
    }


@pytest.mark.parametrize("reduction", ["per_sample", "per_layer"])
@pytest.mark.parametrize("form", ["exact", "query_key"])
@pytest.mark.parametrize("query_budget", [None, 5])
def test_a_step_is_the_definition_however_it_is_cut(
    tmp_path: Path, reduction: str, form: str, query_budget: int | None
) -> None:
    method = make_method(
        exact(reduction=reduction, teacher_form=form, query_budget=query_budget, logit_weight=0.3, layer_budget=2)
    )
    assert isinstance(method, Seekr)
    objective, model = two_tasks(method, tmp_path)
    assert len({tuple(map(str, memory.heads.items())) for memory in objective.memories}) == 2
    rows = all_rows(objective)
    assert [len(memory) for memory in objective.memories] == [3, 2]
    with torch.no_grad():
        expected = plain_parts(objective, model, rows)
    whole, gradients = step(objective, model, [rows])
    assert whole == pytest.approx(expected, rel=1e-5)
    for cuts in ([[row] for row in rows], [rows[:4], rows[4:]], [rows[3:], rows[:1], rows[1:3]]):
        parts, found = step(objective, model, cuts)
        assert parts == pytest.approx(whole, rel=1e-6)
        for one, two in zip(found, gradients, strict=True):
            assert by_definition.relative_error(one, two, 1e-3) < 1e-5


def test_weights_of_layers_where_samples_use_different_ones() -> None:
    """Three samples of a memory with layers 0 and 1, one sample of a memory with layer 1 alone."""
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]
    both = {0: torch.tensor([1]), 1: torch.tensor([0, 2])}
    for reduction, expected in (
        ("per_sample", {(0, 0): 1 / 8, (0, 1): 1 / 8, (1, 1): 1 / 4}),
        ("per_layer", {(0, 0): 1 / 6, (0, 1): 1 / 8, (1, 1): 1 / 8}),
    ):
        kept: Any = [SimpleNamespace(heads=heads, tensors=dict) for heads in (both, {1: both[1]})]
        objective = AttentionReplay(Seekr(reduction=reduction), kept)  # type: ignore[arg-type]
        assert objective.layer_weights(rows) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["replay", "derpp", "seekr"])
def test_fillers_weigh_nothing(tmp_path: Path, name: str) -> None:
    method = make_method(exact() if name == "seekr" else {"name": name, "replay_ratio": 0.25})
    objective, model = two_tasks(method, tmp_path)
    rows = all_rows(objective)
    plain = objective.replay_loss(model, replay_batch(objective, rows, rows))
    filled = replay_batch(objective, [*rows, rows[0]], rows, fillers=1)
    found = objective.replay_loss(model, filled)
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in plain.items()}, rel=1e-6)
    empty = objective.replay_loss(model, replay_batch(objective, rows[:1], rows, fillers=1))
    assert all(value.item() == 0 for value in empty.values())


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (exact(attention_weight=0.0), {"name": "derpp", "replay_ratio": 0.25, "logit_top_k": None}),
        ({"name": "derpp", "replay_ratio": 0.25, "logit_weight": 0.0}, {"name": "replay", "replay_ratio": 0.25}),
        (exact(attention_weight=0.0, logit_weight=0.0), {"name": "replay", "replay_ratio": 0.25}),
    ],
    ids=["seekr-derpp", "derpp-replay", "seekr-replay"],
)
def test_a_weight_of_zero_is_the_method_below_to_the_bit(tmp_path: Path, more: Any, less: Any) -> None:
    found = []
    for index, settings in enumerate((more, less)):
        torch.manual_seed(0)
        method = make_method(settings)
        objective, model = two_tasks(method, tmp_path / str(index))
        rows = all_rows(objective)
        found.append(step(objective, model, [rows[:2], rows[2:]]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, two) for one, two in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "lora"])
@pytest.mark.parametrize("form", ["exact", "query_key", "rows"])
def test_before_the_first_step_the_attention_loss_is_its_floor(tmp_path: Path, kind: str, form: str) -> None:
    """Padded beside longer samples, in half precision, under an adapter: nothing moved yet."""
    before, after = model_line(1)
    if kind == "bfloat16":
        before, after = before.bfloat16(), after.bfloat16()
    if kind == "lora":
        after = get_peft_model(before, LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False))
        before = model_line(0)[0]
    method = make_method(exact(teacher_form=form, attention_weight=1.0, replay_ratio=0.5))
    objective = learn_stages(method, tmp_path, [(before, after.eval(), toy_samples(10))])
    rows = all_rows(objective)
    found = objective.replay_loss(after.train(), replay_batch(objective, rows, rows))["attention"].item()
    floor = objective.memories[0].summary()["attention_floor"]
    rounding = 1e-4 if kind == "bfloat16" else 1e-6
    assert found == pytest.approx(floor, rel=0.05, abs=rounding)
    assert floor < rounding if form == "exact" else floor < 5e-3


# Heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["product_of_sums", "sum_of_products"])
def test_importance_runs_over_all_tasks(tmp_path: Path, form: Any) -> None:
    objective, _ = two_tasks(make_method(exact(importance=form, layer_budget=2)), tmp_path)
    first, second = (load_file(tmp_path / stage / "importance.safetensors") for stage in ("00", "01"))
    for stages, measured in (([first], first), ([first, second], second)):
        expected = head_importance([one["sensitivity"] for one in stages], [one["change"] for one in stages], form=form)
        assert torch.equal(measured["importance"], expected)
        assert measured["change"].all()
    for stage, measured, memory in zip(("00", "01"), (first, second), objective.memories, strict=True):
        chosen = select_heads(measured["importance"], layer_budget=2, head_budget=4)
        as_json = {str(layer): heads.tolist() for layer, heads in chosen.items()}
        assert json.loads((tmp_path / stage / "heads.json").read_text()) == as_json
        assert memory.about["heads"] == as_json


@pytest.mark.parametrize("checkpointing", [False, True])
def test_measures_are_means_over_the_kept_samples(tmp_path: Path, checkpointing: bool) -> None:
    """However many are measured together, and whether the layers' activations are kept: six samples, one batch."""
    before, after = model_line(1)
    forwards: list[bool] = []
    after.model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(True))
    if checkpointing:
        after.gradient_checkpointing_enable({"use_reentrant": False})
    samples = toy_samples(6)
    method = make_method(exact(replay_ratio=1.0))
    learn_stages(method, tmp_path, [(before, after, samples)])
    # Two batches, for sensitivity and for change, two short rows that say which layers attend, and six rows remembered,
    # whose stored form is looked at again.
    assert len(forwards) == 2 * 2 + 1 + 2 * 6 + 2 * checkpointing
    found = load_file(tmp_path / "00" / "importance.safetensors")
    batch = collate(samples, 0)
    assert by_definition.relative_error(found["sensitivity"], measure_sensitivity(after, batch)) < 1e-5
    assert by_definition.relative_error(found["change"], measure_change(before, after, batch)) < 1e-5


def test_a_skill_is_remembered_by_sensitivity_alone(tmp_path: Path) -> None:
    (model,) = model_line(0)
    samples = toy_samples(8)
    (memory,) = learn_stages(make_method(exact()), tmp_path, [(None, model, samples)]).memories
    measured = load_file(tmp_path / "00" / "importance.safetensors")
    assert not measured["change"].any()
    assert torch.equal(measured["importance"], measured["sensitivity"])
    layer_budget, head_budget = resolve_budgets(3, 4, None, 4)
    chosen = select_heads(measured["sensitivity"], layer_budget=layer_budget, head_budget=head_budget)
    assert {k: v.tolist() for k, v in memory.heads.items()} == {k: v.tolist() for k, v in chosen.items()}


def test_a_memory_without_logits_is_no_teacher(tmp_path: Path) -> None:
    (model,) = model_line(0)
    learn_stages(make_method({"name": "replay", "replay_ratio": 0.5}), tmp_path, [(None, model, toy_samples(4))])
    derpp = make_method("derpp").start(context(tmp_path / "next", model, [], stages=[tmp_path / "00"]))
    rows = all_rows(derpp)
    with pytest.raises(InputError, match="has no teacher signals"):
        derpp.replay_loss(model, replay_batch(derpp, rows, rows))


def test_memories_of_a_stranger_are_refused_before_training(tmp_path: Path) -> None:
    (model,) = model_line(0)
    method = make_method({"name": "replay"})
    learn_stages(method, tmp_path, [(None, model, toy_samples(4))])
    for kind in ("tokenizer", "model"):
        other = context(tmp_path / "next", model, [], stages=[tmp_path / "00"], **{f"{kind}_fingerprint": "other"})
        with pytest.raises(InputError, match=f"belongs to another {kind}"):
            method.start(other)


def test_task_loss_is_the_share_of_the_step() -> None:
    (model,) = model_line(0)
    samples = toy_samples(5)
    whole = collate(samples, 0)
    logits = model(**by_definition.inputs_of(whole)).logits
    counted = whole["labels"][:, 1:] != -100
    expected = nn.functional.cross_entropy(logits[:, :-1][counted], whole["labels"][:, 1:][counted])
    objective = Objective(Sequential())
    total = 0.0
    for part in (samples[:2], samples[2:]):
        rows = [(-1, index) for index in range(len(part))]
        batch = MicroBatch.of("task", part, 0, rows=rows, step_rows=rows, step_tokens=int(counted.sum()))
        total += objective.task_loss(model, batch)["task"].item()
    assert total == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(NotImplementedError, match="sequential keeps nothing to replay"):
        objective.replay_loss(model, batch)


def test_lost_importance_is_told_before_the_next_task(tmp_path: Path) -> None:
    method = make_method(exact())
    two_tasks(method, tmp_path)
    stages = [tmp_path / "00", tmp_path / "01"]
    method.check_kept(stages)
    (tmp_path / "00" / "importance.safetensors").unlink()
    with pytest.raises(InputError, match=r"importance\.safetensors: cannot be read .*No such file"):
        method.check_kept(stages)


@pytest.mark.parametrize(
    "changed", [{"sensitivitx": [1, 2]}, {"sensitivity": [1, 2]}, {"sensitivity": [2], "change": [2]}]
)
def test_importance_without_its_tables_is_told_before_the_next_task(
    changed: dict[str, list[int]], tmp_path: Path
) -> None:
    """One bit of a name, in a stage without a manifest, was a traceback."""
    save_file({name: torch.zeros(shape) for name, shape in changed.items()}, tmp_path / "importance.safetensors")
    with pytest.raises(InputError, match=r"importance\.safetensors: no tables of heads"):
        make_method(exact()).check_kept([tmp_path])
