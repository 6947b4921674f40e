"""Bytes of steps on paper, against what PyTorch's allocator hands out when the same steps are really taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_tasks import as_kept, task_batch
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig

from seekr.config.training_arguments import check_lora, training_arguments
from seekr.errors import InputError
from seekr.memory.reader import KeptSample
from seekr.methods import Ewc, KlAnchor, Method, Sequential, make_method
from seekr.methods.ewc import Quadratic
from seekr.modeling.batches import Signals
from seekr.modeling.losses import TopLogits
from seekr.planning.live import GRADIENTS, LOGITS, MAPS, WEIGHTS
from seekr.planning.moments import task_step
from seekr.planning.paper import BEFORE, OPTIMIZER, Paper
from seekr.planning.rows import Shape
from seekr.planning.scaling import Steps
from seekr.planning.sharding import GATHERED, ways
from seekr.training.gradient_share import gradient_shares

pytestmark = pytest.mark.thorough

VOCABULARY, LENGTH, ROWS, ANSWERS = 3000, 160, 2, 60


class EveryLayer(Steps):
    """Counts every layer."""

    def _alike(self) -> bool:
        return False


def config(**more: Any) -> LlamaConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 6, "num_attention_heads": 4}
    return LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=512, **sizes | more)


def paper(
    model: LlamaConfig | None = None,
    *,
    layers: int | None = None,
    method: str | dict[str, Any] = "sequential",
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> Paper:
    arguments = training_arguments({"use_cpu": True, **training}, output_dir=Path("unused"), seed=0)
    return Paper(
        model or config(), make_method(method), arguments, lora=check_lora(lora), dtype="float32", layers=layers
    )


def allocated(run: Any) -> int:
    """The most bytes above the beginning that the CPU allocator had handed out while `run` ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    now = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def real_step(
    method: Method,
    model: LlamaForCausalLM,
    *,
    lengths: tuple[int, ...],
    checkpointing: bool,
    signals: Signals | None = None,
) -> int:
    samples = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,)).numpy()
        labels = ids.copy()
        labels[:-ANSWERS] = -100
        samples.append(KeptSample(ids, labels))
    batch = task_batch(samples, signals=signals)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def run() -> None:
        parts = method.step_losses(model, batch)
        gradient_shares(parts, model.parameters())  # as in the first step of a task, which holds the most
        torch.stack(list(parts.values())).sum().backward()

    return allocated(run)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_task_step_holds_what_the_allocator_hands_out(checkpointing: bool, padded: bool, attention: str) -> None:
    on_paper = paper()
    on_paper.attention = attention
    windows = task_step(on_paper, Shape(ROWS, LENGTH, ANSWERS, padded), checkpointing=checkpointing)
    parts = max(windows.values(), key=lambda parts: sum(parts.values()))
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    model.set_attn_implementation(attention)
    lengths = (LENGTH, LENGTH - 20 * padded)
    found = real_step(Sequential(), model, lengths=lengths, checkpointing=checkpointing)
    assert sum(parts.values()) - parts[WEIGHTS] == pytest.approx(found, rel=0.03)


class RandomQuadratic(Quadratic):
    """A penalty on every weight of a model, of numbers that are made when they are read."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.constant = 0.0

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        return torch.rand(self.shapes[name]), torch.rand(self.shapes[name])


def random_responses(tokens: int) -> dict[str, Tensor]:
    ids = torch.randint(VOCABULARY, (tokens, 128), dtype=torch.int32)
    return as_kept(TopLogits(ids, torch.rand(tokens, 128) - 20))


@pytest.mark.parametrize("name", ["ewc", "lwf", "kl_anchor"])
def test_what_a_method_adds_to_a_task_step_is_what_the_allocator_hands_out(name: str) -> None:
    """Two gradients of one tensor are added in place in a run, and to a third one on paper."""
    on_paper = paper(method=name)
    windows = task_step(on_paper, Shape(ROWS, LENGTH, ANSWERS, False), checkpointing=False)
    parts = max(windows.values(), key=lambda parts: sum(parts.values()))
    torch.manual_seed(0)
    model, method = LlamaForCausalLM(config()), make_method(name)
    if isinstance(method, Ewc):
        method.held, method.quadratic = list(model.named_parameters()), RandomQuadratic(model)
    if isinstance(method, KlAnchor):
        method.predicted = [LENGTH - 1] * ROWS
    tokens = {"lwf": ANSWERS, "kl_anchor": LENGTH - 1}.get(name)
    signals = None if tokens is None else {-1: lambda row: random_responses(tokens)}
    found = real_step(method, model, lengths=(LENGTH,) * ROWS, checkpointing=False, signals=signals)
    more = 0.08 if name == "kl_anchor" else 0.0  # whose cross-entropy is counted as if every token were an answer
    assert sum(parts.values()) - parts[WEIGHTS] == pytest.approx(found, rel=0.02 + more)


def test_a_reference_gradient_lies_beside_that_of_the_step() -> None:
    on_paper = paper(method="agem")
    parts = Steps(on_paper, lambda n: on_paper).reference_step(Shape(2, 8, 4, False), checkpointing=False)
    assert parts[GRADIENTS] > 1.5 * on_paper.trained_bytes


def test_no_map_is_built_but_by_eager_attention() -> None:
    on_paper = paper()
    shape = Shape(ROWS, LENGTH, ANSWERS, False)

    def maps(attention: str) -> int:
        on_paper.attention = attention
        windows = task_step(on_paper, shape, checkpointing=False)
        return max(windows.values(), key=lambda parts: sum(parts.values())).get(MAPS, 0)

    assert maps("sdpa") == maps("flash_attention_2") == 0
    layers, heads = 6, 4
    assert maps("eager") >= layers * ROWS * heads * LENGTH * LENGTH * 4


@pytest.mark.parametrize(("half", "lora", "accumulation"), [(False, None, 1), (True, None, 2), (True, {"r": 4}, 1)])
def test_a_deep_model_is_what_its_layers_add_up_to(half: bool, lora: Any, accumulation: int) -> None:
    settings = {"lora": lora, "bf16": half, "gradient_accumulation_steps": accumulation}
    whole = paper(config(num_hidden_layers=5), **settings)

    def make(layers: int) -> Paper:
        return paper(config(num_hidden_layers=5), layers=layers, **settings)

    for checkpointing in (False, True):
        for step, shape in (("task_step", Shape(2, 200, 90, True)), ("measure_heads", Shape(2, 24, 8, False))):
            counted = getattr(EveryLayer(whole, make), step)(shape, checkpointing=checkpointing)
            grown = getattr(Steps(whole, make), step)(shape, checkpointing=checkpointing)
            assert sum(grown.values()) == pytest.approx(sum(counted.values()), rel=1e-6)


@pytest.mark.parametrize(("lora", "accumulation"), [(None, 1), (None, 2), ({"r": 4}, 2)])
def test_layers_that_distil_are_what_their_kinds_add_up_to(lora: Any, accumulation: int) -> None:
    """Heads are spread as 1, 1, 2, 1, 2, 1, 2 over the first seven of nine layers."""

    def make(layers: int | None = None) -> Paper:
        method = {"name": "seekr", "head_budget": 10, "query_budget": 50}
        return paper(
            config(num_hidden_layers=9), layers=layers, method=method, lora=lora,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip

    whole = make()
    for checkpointing in (False, True):
        counted = EveryLayer(whole, make).replay_step(Shape(2, 200, 90, True), checkpointing=checkpointing)
        grown = Steps(whole, make).replay_step(Shape(2, 200, 90, True), checkpointing=checkpointing)
        assert sum(grown.values()) == pytest.approx(sum(counted.values()), rel=1e-6)


def test_logits_are_in_float32_whatever_the_model_computes_in() -> None:
    for half in (False, True):
        parts = Steps(on := paper(bf16=half), lambda n: on).task_step(
            Shape(2, LENGTH, ANSWERS, False), checkpointing=True
        )
        assert parts[LOGITS] >= 2 * ANSWERS * VOCABULARY * 4


def test_gradients_and_optimizer_state_are_those_of_what_is_trained() -> None:
    full, adapter = paper(), paper(lora={"r": 4})
    assert full.optimizer_bytes() == pytest.approx(2 * 4 * full.trained, rel=1e-3)
    assert adapter.optimizer_bytes() == pytest.approx(2 * 4 * adapter.trained, rel=2e-2)
    assert paper(optim="sgd").optimizer_bytes() == 0
    assert adapter.trained < full.trained / 10
    assert adapter.stored == adapter.trained
    parts = Steps(full, lambda n: full).task_step(Shape(1, 8, 4, False), checkpointing=False)
    embedding = VOCABULARY * 64  # its gradient comes last, and is no gradient yet when most is held
    assert parts[GRADIENTS] == 4 * (full.trained - embedding)


def test_distillation_and_a_second_model_are_counted() -> None:
    kept = paper(method="seekr")
    shape = Shape(ROWS, LENGTH, ANSWERS, True)
    steps, plain = Steps(kept, lambda n: kept), Steps(other := paper(method="replay"), lambda n: other)
    with_maps = sum(steps.replay_step(shape, checkpointing=False).values())
    without = sum(plain.replay_step(shape, checkpointing=False).values())
    assert with_maps > without
    assert steps.measure_heads(shape, checkpointing=False)["model before the task"] == kept.weights


def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(InputError, match="no causal language model can be built"):
        paper(ViTConfig())  # type: ignore[arg-type]


def test_models_that_are_measured_are_gathered_in_the_dtype_they_were_loaded_in() -> None:
    """A step's layers are gathered in half precision; those of both models while heads are measured in float32."""
    found = paper(method="seekr", bf16=True)
    count = sum(p.numel() for p in found.model.parameters())
    layer = sum(p.numel() for p in found.layers[0].parameters())
    rest = count - len(found.layers) * layer
    step, measuring = {WEIGHTS: 4 * count, OPTIMIZER: 8 * count}, {WEIGHTS: 4 * count, BEFORE: 4 * count}
    gathered, held = [], []
    for phase in (step, measuring):
        way = next(
            way
            for way in ways(found, {"it": phase}, trains="", checkpointing=True, devices=4)
            if way.sharding == "FSDP2"
        )
        gathered.append(way.parts[GATHERED])
        held.append(way.parts[WEIGHTS])
    assert held == [count, count]
    assert way.parts[BEFORE] == count
    assert gathered[0] == 2 * (rest + 2 * layer) + 2 * (rest + layer)  # gradients beside the weights
    assert gathered[1] == 4 * (rest + 2 * layer) + 2 * (rest + layer)  # casts beside them
