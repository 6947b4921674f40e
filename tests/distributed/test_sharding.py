"""Sharded models on two processes: what is measured, kept and answered is that of one whole model on one process."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from toy_tasks import context, toy_samples
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.llama import modeling_llama
from two_processes import results_of

from seekr.attention.backend import attention_divergence
from seekr.attention.change import measure_change
from seekr.attention.divergence import SampleTeacher
from seekr.attention.rows import QueryKeyRows
from seekr.attention.sensitivity import unnormalized_sensitivity
from seekr.attention.tap import Tap
from seekr.distributed.processes import connect, in_step
from seekr.distributed.sharded import is_sharded, load_sharded
from seekr.memory.reader import Memory
from seekr.methods import Derpp, Seekr
from seekr.modeling.batches import collate
from seekr.modeling.generation import generate_tokens
from seekr.modeling.inputs import model_inputs, sample_spans
from seekr.modeling.loading import measuring
from seekr.modeling.losses import answer_positions, logits_at

pytestmark = pytest.mark.thorough

CPU = torch.device("cpu")
COUNTS = (1, 2, 7, 9)
"""Kept samples: none for one of two processes; one each; 3 and 4; 4 and 5, which are one and two batches."""

Loaded = Callable[[nn.Module], nn.Module]


def llama(**changes: object) -> nn.Module:
    return by_definition.tiny_llama(**changes)


def with_sinks() -> nn.Module:
    """gpt-oss, whose attention reads a weight of its layer beside queries and keys."""
    settings: dict[str, Any] = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    return by_definition.sharpened(GptOssForCausalLM(GptOssConfig(**settings)))


def with_lora() -> nn.Module:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(llama(), lora).eval()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "sinks": with_sinks,
    "lora": with_lora,
    "autocast": llama,
}


def states(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A model before a task and after it, frozen as loaded ones are."""
    torch.manual_seed(0)
    before = make()
    after = by_definition.moved(before, 0.05).eval()
    return before.requires_grad_(False), after.requires_grad_(False)


def whole(model: nn.Module) -> nn.Module:
    return model


def sharded(model: nn.Module) -> nn.Module:
    return load_sharded(lambda: copy.deepcopy(model), CPU)


def keep(folder: Path, place: Loaded) -> None:
    """What methods keep of a task, of each number of samples, to folders of their own."""
    before, after = states(llama)
    for count in COUNTS:
        settings: dict[str, Any] = {"replay_ratio": 1.0, "query_budget": 3, "head_budget": 4, "logit_top_k": None}
        methods = {
            "seekr": Seekr(**settings, teacher_form="exact"),
            "few bits": Seekr(**settings, teacher_form="query_key"),
            "derpp": Derpp(replay_ratio=1.0, logit_top_k=None),
        }
        for name, method in methods.items():
            model = place(after)
            stage = folder / f"{name}-{count}"
            method.remember(context(stage, model, toy_samples(count), before=lambda: place(before)))


def measures(kind: str, place: Loaded) -> dict[str, Tensor]:
    """Both measures of the heads, batch after batch, of a family of models, and its logits at answer tokens."""
    before, after = (place(model) for model in states(KINDS[kind]))
    found = {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        for start in (0, 3):
            batch = collate(toy_samples(6)[start : start + 3], 0)
            with measuring(after):
                found[f"sensitivity {start}"] = unnormalized_sensitivity(after, batch)
            found[f"change {start}"] = measure_change(before, after, batch)
            with torch.no_grad():
                found[f"logits {start}"] = logits_at(after, model_inputs(batch), *answer_positions(batch["labels"]))
    return found


def answers(kind: str, place: Loaded) -> dict[str, Any]:
    """Seven prompts in four batches, or in three, of which one process has the last, and one prompt alone."""
    _, after = states(KINDS[kind])
    model: Any = place(after)
    tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    prompts = [sample.input_ids for sample in toy_samples(7)]
    found = {}
    for size in (2, 3):
        settings: dict[str, Any] = {"max_new_tokens": 6, "batch_size": size}
        found[f"greedy {size}"] = generate_tokens(model, tokenizer, prompts, **settings)
        found[f"drawn {size}"] = generate_tokens(model, tokenizer, prompts, temperature=2.0, seed=3, **settings)
    found["one"] = generate_tokens(model, tokenizer, prompts[:1], max_new_tokens=6)
    found["none"] = generate_tokens(model, tokenizer, [], max_new_tokens=6)
    return found


def reading(folder: Path) -> list[str]:
    """Which processes had read their model when this one began to."""
    seen: list[str] = []

    def load() -> nn.Module:
        seen.extend(sorted(path.name for path in folder.glob("has-read-*")))
        model = states(llama)[1]
        (folder / f"has-read-{os.environ['RANK']}").touch()
        return model

    load_sharded(load, CPU)
    return seen


def sink_gradients(trained: nn.Module) -> dict[str, Tensor]:
    """Of the sinks, through logits and attention that is distilled; `trained` is whole, or sharded as the Trainer's."""
    teacher = states(with_sinks)[0]
    batch = collate(toy_samples(3), 0)
    inputs, spans = model_inputs(batch), sample_spans(batch["attention_mask"])
    heads = {0: torch.tensor([0, 3]), 1: torch.tensor([1, 2])}
    with torch.no_grad(), Tap(teacher, heads) as source:
        teacher(**inputs)
    with Tap(trained, heads) as tap:
        loss = trained(**inputs).logits.square().mean()
    for layer, chosen in heads.items():
        rows = [QueryKeyRows.of_call(source.calls[layer], row, span, chosen) for row, span in enumerate(spans)]
        targets = [SampleTeacher(row, span, chosen, None, rows[row]) for row, span in enumerate(spans)]
        loss = loss + 1000 * attention_divergence(tap.calls[layer], targets).sum()
    loss.backward()
    grads = {name: parameter.grad for name, parameter in trained.named_parameters() if name.endswith("sinks")}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}


def trainable_with_sinks() -> nn.Module:
    return states(with_sinks)[1].requires_grad_(True)


def work(folder: Path) -> None:
    """What each of two processes does; results to a file of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    connect()
    model: Any = sharded(states(llama)[1])
    forwards: list[int] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
    wide: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: wide.append(output.shape[:-1].numel()))
    batch = collate(toy_samples(3), 0)
    with measuring(model):
        unnormalized_sensitivity(model, batch)
    results: dict[str, Any] = {
        "forwards": len(forwards),
        "logits": wide,
        "parts": {name: (p.to_local().numel(), p.numel()) for name, p in model.named_parameters()},
        "storage": sum(p.to_local().untyped_storage().nbytes() for p in model.parameters()),
        "frozen": not any(p.requires_grad for p in model.parameters()),
        "sharded": is_sharded(model),
        "measures": {kind: measures(kind, sharded) for kind in KINDS},
        "answers": {kind: answers(kind, sharded) for kind in ("llama", "lora")},
        "reading": reading(folder),
    }
    keep(folder, sharded)
    trained: Any = trainable_with_sinks()
    mesh = init_device_mesh("cpu", (2,))
    for module in (*trained.model.layers, trained):
        fully_shard(module, mesh=mesh)
    results["sinks"] = sink_gradients(trained)
    torch.save(results, folder / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, results_of(__file__, folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    keep(folder, whole)
    return folder


Two = tuple[Path, list[dict[str, Any]]]


def test_a_process_holds_its_part_of_the_weights(two: Two) -> None:
    ranks = two[1]
    model = states(llama)[1]
    expected = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for rank in ranks:
        assert {name: count for name, (_, count) in rank["parts"].items()} == expected
        assert rank["storage"] == 4 * sum(own for own, _ in rank["parts"].values())
        assert rank["frozen"]
        assert rank["sharded"]
    for name, count in expected.items():
        own = [rank["parts"][name][0] for rank in ranks]
        assert own == [count // 2, count // 2]  # every weight here has an even number of rows
    assert not is_sharded(model)


def test_one_process_of_a_machine_reads_at_a_time(two: Two) -> None:
    assert [rank["reading"] for rank in two[1]] == [[], ["has-read-0"]]


def test_layers_are_computed_again_for_the_gradient_and_logits_where_asked(two: Two) -> None:
    """Activations of all layers are not kept. A class of PyTorch's in place of the model's hid what it can do."""
    asked = len(answer_positions(collate(toy_samples(3), 0)["labels"])[0])
    takes_places = hasattr(modeling_llama, "slice_logits_to_keep")  # transformers from 5.23 on
    for rank in two[1]:
        assert rank["forwards"] == 2
        assert not takes_places or rank["logits"] == [asked]


@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_those_of_the_whole_model(two: Two, kind: str) -> None:
    """A sink, which is a weight, is still there when the layer's weights are gone."""
    expected = measures(kind, whole)
    for rank in two[1]:
        assert rank["measures"][kind].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(rank["measures"][kind][name], value, rtol=1e-5, atol=1e-6)
            assert value.any()


def test_gradients_reach_sinks_in_parts(two: Two) -> None:
    expected = sink_gradients(trainable_with_sinks())
    for rank in two[1]:
        assert rank["sinks"].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(rank["sinks"][name], value, rtol=1e-5, atol=1e-7)
            assert value.any()


@pytest.mark.parametrize("count", COUNTS)
def test_heads_are_measured_alike(two: Two, one: Path, count: int) -> None:
    name = f"seekr-{count}"
    expected, found = (load_file(folder / name / "importance.safetensors") for folder in (one, two[0]))
    assert found.keys() == expected.keys()
    for measure, value in expected.items():
        torch.testing.assert_close(found[measure], value, rtol=1e-5, atol=1e-7)
        assert value.any()
    heads = [json.loads((folder / name / "heads.json").read_text()) for folder in (one, two[0])]
    assert heads[0] == heads[1]


@pytest.mark.parametrize("method", ["seekr", "derpp"])
@pytest.mark.parametrize("count", COUNTS)
def test_teachers_are_kept_alike(two: Two, one: Path, count: int, method: str) -> None:
    """Each sample once, though a process without a sample of its own ran along with the first."""
    expected, found = (Memory.open(folder / f"{method}-{count}" / "memory") for folder in (one, two[0]))
    assert len(found) == len(expected) == count
    shares = [[start, end] for start, end in ((0, count // 2), (count // 2, count)) if start < end]
    assert [shard["samples"] for shard in found.about["shards"]] == shares
    for sample in range(count):
        logits = [memory.logits(sample) for memory in (found, expected)]
        assert torch.equal(logits[0].ids[:, 0], logits[1].ids[:, 0])
        torch.testing.assert_close(logits[0].log_probs, logits[1].log_probs, rtol=1e-5, atol=1e-5)
        for layer in expected.heads if method == "seekr" else ():
            rows = [memory.attention(sample).rows(layer, CPU) for memory in (found, expected)]
            torch.testing.assert_close(rows[0].query, rows[1].query, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rows[0].key, rows[1].key, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_what_few_bits_cost_is_measured_alike(two: Two, one: Path, count: int) -> None:
    memories = [Memory.open(folder / f"few bits-{count}" / "memory") for folder in (two[0], one)]
    floors = [memory.about["facts"]["attention_floor"] for memory in memories]
    assert floors[0] == pytest.approx(floors[1], rel=1e-4)
    assert floors[1] > 0


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_answers_are_those_of_the_whole_model(two: Two, kind: str) -> None:
    expected = answers(kind, whole)
    assert expected["greedy 2"] != expected["drawn 2"]
    assert [rank["answers"][kind] for rank in two[1]] == [expected, expected]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("together", [1, 4])
def test_processes_are_in_step(count: int, processes: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many turns for all, each place counted once, and no turn that all but idle through."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    turns = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        turns.append(list(in_step(count, together)))
    assert len(set(map(len, turns))) == 1
    counted = [[place for places, counts in own for place in places if counts] for own in turns]
    assert [place for own in counted for place in own] == list(range(count))
    assert all(0 < len(places) <= together and max(places) < count for own in turns for places, _ in own)
    assert all(any(counts for _, counts in turn) for turn in zip(*turns, strict=True))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
