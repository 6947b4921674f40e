"""What processes do together: shares, sums, measures of sharded parameters; one process against two."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from torch import nn
from toy_tasks import context, toy_samples
from two_processes import results_of

from seekr.distributed.agreement import agreed
from seekr.distributed.processes import connect, gathered, own_share, spread, summed
from seekr.errors import InputError
from seekr.methods import Ewc, Lwf
from seekr.methods.ewc import FILE
from seekr.modeling.batches import collate
from seekr.modeling.generation import answer_likelihoods, generate_tokens
from seekr.runs.model_store import save_whole

CPU = torch.device("cpu")
NORMS = ("frobenius", "mean_square")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_stretches_that_cover_all_once(count: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(own_share(count))
    assert [place for share in shares for place in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert gathered(3) == [3]
    assert spread("abc", lambda place, item: (place, item)) == [(0, "a"), (1, "b"), (2, "c")]
    assert summed(torch.ones(2), CPU).tolist() == [1, 1]
    with pytest.raises(ZeroDivisionError):
        agreed(lambda: 1 / 0)


def test_a_launch_that_does_not_say_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone is set by schedulers too; nothing would ever answer."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT not set"):
        connect()


def measures(model: Any, before: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every measure of two states of a model on one batch."""
    from seekr.attention.change import measure_change
    from seekr.attention.sensitivity import unnormalized_sensitivity

    found = {}
    for norm in NORMS:
        found[f"sensitivity {norm}"] = unnormalized_sensitivity(model, batch, norm=norm)
        found[f"change {norm}"] = measure_change(before, model, batch, norm=norm)
    return found


def models() -> tuple[nn.Module, nn.Module]:
    """The state before a task, and that behind it."""
    torch.manual_seed(0)
    before = by_definition.tiny_llama()
    return before.eval(), by_definition.moved(before, 0.05).eval()


def everything(folder: Path) -> dict[str, Any]:
    """What one process does and what two do together: it must come out the same."""
    samples = toy_samples(7)
    _, after = models()
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    prompts = [sample.input_ids for sample in samples]
    settings = {"max_new_tokens": 5, "batch_size": 2}
    found: dict[str, Any] = {
        "greedy": generate_tokens(after, tokenizer, prompts, **settings),  # type: ignore[arg-type]
        "drawn": generate_tokens(after, tokenizer, prompts, temperature=2.0, seed=3, **settings),  # type: ignore[arg-type]
    }
    found["likelihoods"] = answer_likelihoods(after, samples, 0, batch_size=2)  # type: ignore[arg-type]
    stage = context(folder / "stage", after, samples=samples, stages=[])
    Ewc(fisher_samples=5).remember(stage)
    stage = context(folder / "stage", after, samples=samples, stages=[folder], working=folder / "working")
    read = Lwf().start(stage).signals[-1]
    found["responses"] = [read(place)["logit_log_probs"] for place in range(len(samples))]
    return found


def work(folder: Path) -> None:
    """What each of two processes does; results to a file of its own."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    connect()
    rank = int(os.environ["RANK"])
    results = everything(folder)
    results["sum"] = summed(torch.tensor([0.1 * (rank + 1), 1.0]), CPU)
    results["spread"] = spread("abcde", lambda place, item: f"{item}{place}{rank}")
    before, after = models()
    mesh = init_device_mesh("cpu", (2,))
    for model in (before, after):
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    own = [toy_samples(6)[place] for place in own_share(6)]
    results["measures"] = measures(after, before, collate(own, 0))
    results["likelihoods in parts"] = answer_likelihoods(after, toy_samples(7), 0, batch_size=3)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
    save_whole(after, get_model_state_dict(after, options=options), folder / "whole")
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, results_of(__file__, folder)


@pytest.mark.thorough
def test_sums_and_results_are_the_same_on_all(two: tuple[Path, list[dict[str, Any]]]) -> None:
    _, ranks = two
    assert torch.equal(ranks[0]["sum"], ranks[1]["sum"])
    torch.testing.assert_close(ranks[0]["sum"], torch.tensor([0.3, 2.0]))
    assert ranks[0]["spread"] == ranks[1]["spread"] == ["a00", "b11", "c20", "d31", "e40"]


@pytest.mark.thorough
def test_answers_likelihoods_fisher_and_responses_are_those_of_one_process(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    folder, ranks = two
    alone = everything(tmp_path)
    for rank in ranks:
        assert rank["greedy"] == alone["greedy"]
        assert rank["drawn"] == alone["drawn"]
        assert rank["likelihoods"] == alone["likelihoods"]
        for found, expected in zip(rank["responses"], alone["responses"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert alone["drawn"] != alone["greedy"]
    fisher = [load_file(path / "stage/model" / FILE) for path in (folder, tmp_path)]
    assert fisher[0].keys() == fisher[1].keys()
    for name, expected in fisher[1].items():
        torch.testing.assert_close(fisher[0][name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.thorough
def test_measures_of_parameters_in_parts_are_those_of_whole_ones(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """FSDP2's fully_shard around both models: each process reads its samples; the mean is that of all samples."""
    _, ranks = two
    before, after = models()
    whole = measures(after, before, collate(toy_samples(6), 0))
    for name, expected in whole.items():
        found = torch.stack([rank["measures"][name] for rank in ranks]).mean(dim=0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
        assert float(expected.min()) > 0, name


@pytest.mark.thorough
def test_likelihoods_by_a_model_in_parts_are_those_of_the_whole_one(two: tuple[Path, list[dict[str, Any]]]) -> None:
    """Three batches on two processes, which must call the model equally often."""
    _, ranks = two
    _, after = models()
    expected = answer_likelihoods(after, toy_samples(7), 0, batch_size=3)  # type: ignore[arg-type]
    assert ranks[0]["likelihoods in parts"] == ranks[1]["likelihoods in parts"]
    for found, right in zip(ranks[0]["likelihoods in parts"], expected, strict=True):
        assert found.answer_tokens == right.answer_tokens
        assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=1e-5)


@pytest.mark.thorough
def test_a_model_in_parts_is_written_whole(two: tuple[Path, list[dict[str, Any]]]) -> None:
    from seekr.modeling.loading import load_model

    folder, _ = two
    loaded = load_model(str(folder / "whole"), dtype="float32").state_dict()
    for name, expected in models()[1].state_dict().items():
        assert torch.equal(loaded[name], expected), name
        assert np.isfinite(expected.numpy()).all()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
