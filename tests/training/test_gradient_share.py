"""Each part's share of the gradient norm, measured beside the training and without a trace in it."""

from pathlib import Path

import pytest
import torch
from torch import nn
from toy_training import ToyMethod, log_lines, toy_model, toy_trainer, weights

from seekr.training.gradient_share import gradient_shares


def test_shares_are_the_norms_of_separate_backward_passes() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3, bias=False))
    model[0].bias.requires_grad_(False)
    x = torch.randn(4, 5)

    def parts() -> dict[str, torch.Tensor]:
        y = model(x)
        return {"a": y.square().mean(), "b": 3 * y[:, 0].sum(), "c": model[2].weight.sum(), "d": torch.tensor(2.0)}

    norms = {}
    for name in ("a", "b", "c"):
        model.zero_grad()
        parts()[name].backward()
        norms[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    norms["d"] = 0.0
    model.zero_grad()
    for scale in (1.0, 1024.0):
        shares = gradient_shares(parts(), model.parameters(), scale=scale)
        assert shares == pytest.approx({name: norm / sum(norms.values()) for name, norm in norms.items()}, rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_tied_weight_counts_once() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    other = nn.Parameter(torch.tensor([1.0]))
    shares = gradient_shares({"tied": (weight * weight).sum(), "other": other.sum()}, [weight, other])
    assert shares == pytest.approx({"tied": 4 / 5, "other": 1 / 5})  # d(w*w) = 2w, not two pieces of w


def test_one_part_has_all_and_no_gradient_has_none() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert gradient_shares({"only": weight.sum()}, [weight]) == {"only": 1.0}
    assert gradient_shares({"a": weight.sum() * 0, "b": weight.sum() * 0}, [weight]) == {"a": 0.0, "b": 0.0}


def test_gradients_that_exist_stay_the_same_bits() -> None:
    weight = nn.Parameter(torch.randn(6))
    weight.grad = torch.randn(6)
    before = weight.grad.clone()
    gradient_shares({"a": weight.sin().sum(), "b": weight.exp().sum()}, [weight])
    assert torch.equal(weight.grad, before)
    assert not weight._backward_hooks


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"bf16": True}])
def test_measuring_leaves_the_trajectory_the_same_bits(tmp_path: Path, settings: dict[str, bool]) -> None:
    runs = {}
    for every in (1, 10**6):
        folder = tmp_path / str(every)
        trainer = toy_trainer(
            folder, model=toy_model(dropout=0.3), gradient_share_every=every, gradient_accumulation_steps=2, **settings
        )
        trainer.train()
        runs[every] = weights(trainer.model), log_lines(folder)
    assert torch.equal(runs[1][0], runs[10**6][0])
    for line, wanted in zip(runs[1][1], runs[10**6][1], strict=True):
        line.pop("gradient_share")
        wanted.pop("gradient_share", None)
        assert line == wanted


def test_the_log_has_the_shares_of_the_first_of_a_kind_and_then_now_and_then(tmp_path: Path) -> None:
    toy_trainer(tmp_path, gradient_share_every=3, per_device_train_batch_size=2).train()
    for kind, parts in (("task", {"task"}), ("replay", {"replay", "spread"})):
        lines = [line for line in log_lines(tmp_path) if line["kind"] == kind]
        assert len(lines) > 3
        for i, line in enumerate(lines):
            assert ("gradient_share" in line) == (i % 3 == 0)
            if i % 3 == 0:
                assert line["gradient_share"].keys() == parts
                assert sum(line["gradient_share"].values()) == pytest.approx(1)


def test_a_measured_share_follows_the_weight_of_its_part(tmp_path: Path) -> None:
    class Heavier(ToyMethod):
        def replay_loss(self, model, batch):  # type: ignore[no-untyped-def]
            parts = super().replay_loss(model, batch)
            return {"replay": parts["replay"], "spread": 10 * parts["spread"]}

    shares = []
    for method in (ToyMethod(), Heavier()):
        folder = tmp_path / type(method).__name__
        toy_trainer(folder, method=method, learning_rate=0.0).train()
        line = next(line for line in log_lines(folder) if line["kind"] == "replay")
        shares.append(line["gradient_share"]["spread"] / line["gradient_share"]["replay"])
    assert shares[1] == pytest.approx(10 * shares[0], rel=1e-4)
