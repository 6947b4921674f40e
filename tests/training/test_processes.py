"""Two data-parallel processes (gloo) take the same steps as one."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_training import Gradients, ToyMethod, log_lines, toy_experts, toy_trainer, weights
from two_processes import results_of

from seekr.errors import RunError
from seekr.modeling.batches import MicroBatch

# A short last step, more replay than task rows, steps with fewer rows than slots.
CASES: dict[str, dict[str, Any]] = {
    "ragged": {"samples": 11, "kept": (3, 2)},
    "much replay": {"samples": 3, "kept": (20, 9)},
    "accumulated": {"samples": 9, "kept": (1,), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "experts": {"samples": 11, "kept": (2,), "model": toy_experts},
    "experts accumulated": {
        "samples": 11, "kept": (2,), "model": toy_experts, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
}  # fmt: skip


def made(case: str) -> dict[str, Any]:
    return {key: value() if callable(value) else value for key, value in CASES[case].items()}


class Broken(ToyMethod):
    """Not finite on one row, which only one of the processes has."""

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        self.model = model
        self.before = weights(model).clone()
        parts = super().replay_loss(model, batch)
        return {name: part / 0 if (0, 2) in batch.rows else part for name, part in parts.items()}


def work(folder: Path) -> None:
    """What each process does: all cases, then a loss that is not finite; results to a file of its own."""
    results: dict[str, Any] = {}
    for name in CASES:
        gradients = Gradients()
        trainer = toy_trainer(
            folder / name, callbacks=[gradients], **{"learning_rate": 0.0, "num_train_epochs": 1} | made(name)
        )
        trainer.train()
        results[name] = gradients.steps
    saving = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 1}
    trainer = toy_trainer(folder / "saved", gradient_share_every=1, **saving)
    trainer.train()
    results["weights"] = weights(trainer.model)
    method = Broken()
    trainer = toy_trainer(folder / "broken", method=method)
    try:
        trainer.train()
    except RunError as error:
        results["error"] = str(error)
    results["unmoved"] = torch.equal(weights(method.model), method.before)
    torch.save(results, folder / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, results_of(__file__, folder)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case: str, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, ranks = two
    gradients = Gradients()
    settings = {**made(case), "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    toy_trainer(tmp_path, callbacks=[gradients], **{"learning_rate": 0.0, "num_train_epochs": 1} | settings).train()
    for rank in ranks:
        assert len(rank[case]) == len(gradients.steps)
        for step, wanted in zip(rank[case], gradients.steps, strict=True):
            torch.testing.assert_close(step, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())
    for line, wanted in zip(log_lines(folder / case), log_lines(tmp_path), strict=True):
        assert line["kind"] == wanted["kind"]
        for name in line.keys() - {"kind", "gradient_share"}:
            assert line[name] == pytest.approx(wanted[name], rel=1e-5)


def test_two_processes_learn_save_and_measure_like_one(two: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, ranks = two
    one = toy_trainer(tmp_path, per_device_train_batch_size=8)
    one.train()
    assert torch.equal(ranks[0]["weights"], ranks[1]["weights"])
    torch.testing.assert_close(ranks[0]["weights"], weights(one.model), rtol=0, atol=1e-4)
    last = folder / "saved/training" / f"checkpoint-{one.state.global_step}"
    names = {path.name for path in last.iterdir()}
    assert {"complete.json", "rng_state_0.pth", "rng_state_1.pth"} <= names
    assert list(last.parent.glob("checkpoint-*")) == [last]
    assert all(sum(line["gradient_share"].values()) == pytest.approx(1) for line in log_lines(folder / "saved"))


def test_one_process_with_a_bad_loss_stops_both(two: tuple[Path, list[dict[str, Any]]]) -> None:
    _, ranks = two
    assert ranks[0]["error"] == ranks[1]["error"]
    assert "row 2 of memory 0" in ranks[0]["error"]
    assert all(rank["unmoved"] for rank in ranks)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
