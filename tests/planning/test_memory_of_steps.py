"""Bytes of steps on paper, against what PyTorch's allocator hands out when the same steps are really taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_tasks import as_kept, replay_batch, task_batch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    ViTConfig,
)

from seekr.config.training_arguments import check_lora, training_arguments
from seekr.errors import InputError
from seekr.memory.reader import KeptSample, Memory
from seekr.memory.writer import MemoryWriter
from seekr.methods import Method, Objective, Sequential, TaskContext, make_method
from seekr.methods.ewc import Quadratic
from seekr.methods.responses import HeldToRecord
from seekr.methods.seekr import AttentionReplay
from seekr.modeling.batches import MicroBatch
from seekr.modeling.losses import TopLogits, answer_positions
from seekr.planning.blank import Blank
from seekr.planning.live import GRADIENTS, LOGITS, MAPS, TEACHER, WEIGHTS, Bytes
from seekr.planning.moments import measuring, step
from seekr.planning.paper import BEFORE, OPTIMIZER, Paper
from seekr.planning.rows import Shape
from seekr.planning.sharding import GATHERED, ways
from seekr.training.gradient_share import gradient_shares

pytestmark = pytest.mark.thorough

VOCABULARY, LENGTH, ROWS, ANSWERS = 3000, 160, 2, 60


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=176, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip


def paper(
    model: Any = None, *, method: str | dict[str, Any] | Method = "sequential", lora: Any = None, **training: Any
) -> Paper:
    arguments = training_arguments({"use_cpu": True, **training}, output_dir=Path("unused"), seed=0)
    made = method if isinstance(method, Method) else make_method(method)
    return Paper(model or config(), made, arguments, lora=check_lora(lora), dtype="float32")


def planned(paper: Paper, kind: Any = "task", *, padded: bool = False) -> Bytes:
    return step(paper, kind, Shape(ROWS, LENGTH, ANSWERS, padded))


def beside_weights(parts: Bytes) -> int:
    return sum(parts.values()) - parts[WEIGHTS]


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


def row_of(length: int) -> KeptSample:
    ids = torch.randint(3, VOCABULARY, (length,)).numpy()
    labels = ids.copy()
    labels[:-ANSWERS] = -100
    return KeptSample(ids, labels)


def real_step(objective: Objective, model: LlamaForCausalLM, batch: MicroBatch, *, checkpointing: bool) -> int:
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    losses = objective.step_losses if batch.kind == "task" else objective.replay_loss

    def run() -> None:
        parts = losses(model, batch)
        gradient_shares(parts, model.parameters())  # as in the first step of a task, which holds the most
        torch.stack(list(parts.values())).sum().backward()

    return allocated(run)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("padded", "attention"), [(False, "sdpa"), (True, "sdpa"), (True, "eager")])
def test_a_task_step_holds_what_the_allocator_hands_out(checkpointing: bool, padded: bool, attention: str) -> None:
    shape = config()
    shape._attn_implementation = attention
    on_paper = paper(shape, gradient_checkpointing=checkpointing)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    model.set_attn_implementation(attention)
    batch = task_batch([row_of(LENGTH), row_of(LENGTH - padded)])
    found = real_step(Objective(Sequential()), model, batch, checkpointing=checkpointing)
    parts = planned(on_paper, padded=padded)
    assert beside_weights(parts) == pytest.approx(found, rel=0.01)


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


@pytest.mark.parametrize("name", ["ewc", "lwf", "kl_anchor", "l2_sp", "osf"])
def test_what_a_method_adds_to_a_task_step_is_what_the_allocator_hands_out(name: str) -> None:
    """`kl_anchor` was 9% too high, its cross-entropy being counted as if every token were an answer."""
    torch.manual_seed(0)
    method = make_method(name)
    model = method.form.adapt(LlamaForCausalLM(config()), None)
    tokens = {"lwf": ANSWERS, "kl_anchor": LENGTH - 1}.get(name)
    about: Any = SimpleNamespace(model=model, device=torch.device("cpu"), stages=[], samples=[])
    objective: Any = HeldToRecord(method, None, []) if tokens else method.start(about)  # type: ignore[arg-type]
    objective.held = [tokens] * ROWS
    if name == "ewc":
        objective.penalties["ewc"] = lambda _: RandomQuadratic(model).penalty(list(model.named_parameters()))
    # Of l2_sp, whose copy is made before the step is measured.
    copied = sum(weight.nbytes for weight in model.parameters()) if name == "l2_sp" else 0
    signals = None if tokens is None else {-1: lambda row: random_responses(tokens)}
    batch = task_batch([row_of(LENGTH) for _ in range(ROWS)], signals=signals)
    found = real_step(objective, model, batch, checkpointing=False)
    assert beside_weights(planned(paper(method=name))) == pytest.approx(found + copied, rel=0.015)


class Own(Method):
    """A method of a user's, which nothing in `seekr.planning` knows: it trains beside two copies of the weights."""

    name = "own"
    unplanned = "what it dreams"

    def start(self, context: TaskContext) -> Objective:
        objective = super().start(context)
        copies = [weight.detach().clone() for weight in context.model.parameters() for _ in range(2)]
        objective.penalties["own"] = lambda _: torch.stack([copy.sum() for copy in copies]).sum()
        return objective


def test_a_new_method_says_itself_what_it_takes() -> None:
    on_paper = paper(method=Own())
    assert planned(on_paper)[TEACHER] == 2 * 4 * on_paper.trained


def test_what_is_computed_of_tokens_has_numbers_and_nothing_else_has() -> None:
    with paper().blank():
        labels = torch.tensor([[-100, 4, 5], [-100, -100, 6]])
        rows, positions = answer_positions(labels)
        chosen = torch.rand(2, 3, 7)[rows, positions]
        again = torch.rand(2, 3, 7)[labels != -100]
    assert rows.tolist() == [0, 0, 1]
    assert positions.tolist() == [0, 1, 1]
    assert isinstance(chosen, Blank)
    assert chosen.shape == again.shape == (3, 7)


def test_an_operator_that_is_repeated_gives_what_it_gave() -> None:
    """Also where it gives a view, or one of its arguments."""

    def some(x: Tensor) -> list[Tensor]:
        y = x.transpose(0, 1)
        return [y, y @ x, y.contiguous(), (y * 2).split(2)[1], x.add_(1), x.float().topk(2).indices, y.to(torch.int8)]

    with paper().blank():
        found = [some(torch.rand(4, 5)) for _ in range(2)]
    expected = some(torch.rand(4, 5))
    for one in found:
        assert [(t.shape, t.stride(), t.dtype) for t in one] == [(t.shape, t.stride(), t.dtype) for t in expected]


def test_no_map_is_built_but_by_eager_attention() -> None:
    maps = {}
    for attention in ("sdpa", "flex_attention", "eager"):
        shape = config()
        shape._attn_implementation = attention
        on_paper = paper(shape)
        assert on_paper.attention == attention
        maps[attention] = planned(on_paper).get(MAPS, 0)
    assert maps["sdpa"] == maps["flex_attention"] == 0
    layers, heads = 6, 4
    assert maps["eager"] >= layers * ROWS * heads * LENGTH * LENGTH * 4


def test_logits_are_in_float32_whatever_the_model_computes_in() -> None:
    for half in (False, True):
        parts = planned(paper(bf16=half, gradient_checkpointing=True))
        assert parts[LOGITS] >= 2 * ANSWERS * VOCABULARY * 4


def test_gradients_and_optimizer_state_are_those_of_what_is_trained() -> None:
    full, adapter = paper(), paper(lora={"r": 4})
    assert full.optimizer_bytes() == pytest.approx(2 * 4 * full.trained, rel=1e-3)
    assert adapter.optimizer_bytes() == pytest.approx(2 * 4 * adapter.trained, rel=2e-2)
    assert paper(optim="sgd").optimizer_bytes() == 0
    assert adapter.trained < full.trained / 10
    assert adapter.stored == adapter.trained
    parts = step(full, "task", Shape(1, 8, 4, False))
    embedding = VOCABULARY * 64  # its gradient comes last, and is no gradient yet when most is held
    assert parts[GRADIENTS] == 4 * (full.trained - embedding)


@pytest.mark.parametrize(("checkpointing", "form", "budget"), [(True, "query_key", 50), (False, "auto", None)])
def test_a_replay_step_of_seekr_holds_what_the_allocator_hands_out(
    checkpointing: bool, form: Any, budget: int | None, tmp_path: Path
) -> None:
    """Its teachers lie in a memory that was really written; they are read before the step, and are not among it."""
    settings = {"name": "seekr", "query_budget": budget, "teacher_form": form}
    on_paper = paper(method=settings, gradient_checkpointing=checkpointing)
    method: Any = make_method(settings)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config()).train()
    rows = [row_of(LENGTH) for _ in range(ROWS)]
    heads = {
        layer: torch.arange(len(it.query)) for layer, it in method.likely_attention(on_paper.calls, LENGTH).items()
    }
    writer = MemoryWriter(
        tmp_path, rows, heads=heads, form=form, task="a", tokenizer_fingerprint="", model_fingerprint=""
    )  # fmt: skip
    positions = method.drawn_queries(LENGTH, np.random.default_rng(0))
    writer.ask(model, method.stored_logits, queries=[positions] * ROWS)
    writer.close()
    objective = AttentionReplay(method, [Memory.open(tmp_path)])
    places = [(0, place) for place in range(ROWS)]
    batch = replay_batch(objective, places, places)
    found = real_step(objective, model, batch, checkpointing=checkpointing)
    parts = planned(on_paper, "replay")
    assert beside_weights(parts) - parts[TEACHER] == pytest.approx(found, rel=0.01)


def test_a_second_model_is_counted_while_heads_are_measured() -> None:
    kept = paper(method="seekr")
    parts = measuring(kept, Shape(ROWS, LENGTH, ANSWERS, True))
    assert parts[BEFORE] == parts[WEIGHTS] == pytest.approx(4 * kept.parameters, rel=1e-3)


def test_of_an_adapter_that_alone_is_counted_a_second_time_while_heads_are_measured() -> None:
    """Both models have one base in memory, but where they are sharded."""
    kept = paper(method="seekr", lora={"r": 4})
    parts = measuring(kept, Shape(ROWS, LENGTH, ANSWERS, True))
    assert parts[BEFORE] == 4 * kept.trained
    whole, sharded = ways(kept, {"it": parts}, devices=4)
    assert whole.parts[BEFORE] == parts[BEFORE]
    assert sharded.parts[BEFORE] == sharded.parts[WEIGHTS] == -(-parts[WEIGHTS] // 4)


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
        _, way = ways(found, {"it": phase}, devices=4)
        gathered.append(way.parts[GATHERED])
        held.append(way.parts[WEIGHTS])
    assert held == [count, count]
    assert way.parts[BEFORE] == count
    assert gathered[0] == 2 * (rest + 2 * layer) + 2 * (rest + layer)  # gradients beside the weights
    assert gathered[1] == 4 * (rest + 2 * layer) + 2 * (rest + layer)  # casts beside them


def test_an_operator_that_is_repeated_follows_the_default_dtype() -> None:
    """A model in bfloat16 is built under that default: the next one, in float32, was planned with its tensors."""
    half = Paper(config(), make_method("sequential"), paper().arguments, lora=None, dtype="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in paper().model.parameters()} == {torch.float32}


def experts(family: str) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "num_experts_per_tok": 2,
        "num_local_experts": 4,
    }  # fmt: skip
    return MixtralConfig(**sizes) if family == "mixtral" else GptOssConfig(**sizes, head_dim=16, sliding_window=32)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mixture_of_experts_is_planned(family: str, checkpointing: bool) -> None:
    """None was: what tells the shape of a product of groups of rows takes bfloat16 alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(experts(family), dtype=torch.float32)
    batch = task_batch([row_of(LENGTH) for _ in range(ROWS)])
    found = real_step(Objective(Sequential()), model, batch, checkpointing=checkpointing)
    parts = planned(paper(experts(family), gradient_checkpointing=checkpointing))
    assert beside_weights(parts) == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("half", [False, True])
def test_sinks_are_those_of_the_chosen_heads(half: bool) -> None:
    """`seekr` of gpt-oss could not be planned: all heads' sinks stood beside the chosen heads' maps."""
    on_paper = paper(experts("gpt_oss"), method="seekr", bf16=half)
    rows = on_paper.method.likely_attention(on_paper.calls, LENGTH)
    assert [len(it.sink) for it in rows.values()] == [len(it.query) for it in rows.values()]
    assert planned(on_paper, "replay")[TEACHER] > 0


def test_a_family_whose_attention_is_not_read_is_refused_as_learning_refuses_it() -> None:
    """A plan ended in "StopIteration"."""
    with pytest.raises(InputError, match=r"BloomForCausalLM does not call its attention through .*method.name=derpp"):
        planned(paper(BloomConfig(vocab_size=64, hidden_size=64, n_layer=2, n_head=4), method="seekr"), "replay")
