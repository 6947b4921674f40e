"""What orthogonal subspace fine-tuning keeps, against numpy's singular vectors of the old weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from precisions import AROUND, assert_same_bits
from toy_tasks import task_batch, toy_samples
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import seekr.methods.osf
from seekr.errors import InputError
from seekr.methods import Osf
from seekr.methods.osf import InSubspace, project


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are wide, high and square: peft keeps another basis for each."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def learn_task(method: Osf, base: Path, weights: Path | None, folder: Path, steps: int = 30) -> Path:
    """AdamW with weight decay on random rows, as the Trainer asks the method; the stage's model folder."""
    model = method.form.load_trainable(str(base), weights, dtype="float32", lora=None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    objective, batch = InSubspace(method), task_batch(toy_samples(4))
    for step in range(steps):
        objective.task_loss(model, batch)["task"].backward()
        objective.after_backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    merged = method.form.trained(model)
    merged.save_pretrained(folder)
    return folder


def leaks(old: Path, new: Path, share: float) -> np.ndarray:
    """‖U_highᵀ ΔW‖ / ‖ΔW‖ and ‖ΔW V_highᵀ‖ / ‖ΔW‖ of every weight that was decomposed, [weights, 2]."""
    before, after = (dict(AutoModelForCausalLM.from_pretrained(path).named_parameters()) for path in (old, new))
    found = []
    for name, weight in before.items():
        was, now = (one.detach().numpy().astype(np.float64) for one in (weight, after[name]))
        if not name.endswith("_proj.weight"):
            assert np.array_equal(was, now)
            continue
        left, _, right = np.linalg.svd(was)
        kept = int(min(was.shape) * share)
        assert 0 < kept < min(was.shape)
        change = now - was
        assert np.linalg.norm(change) > 0.01 * np.linalg.norm(was)
        found.append(
            [np.linalg.norm(left[:, :kept].T @ change), np.linalg.norm(change @ right[:kept].T)]
            / np.linalg.norm(change)
        )
    assert len(found) == 14
    return np.array(found)


def test_updates_are_orthogonal_to_the_kept_directions(base: Path, tmp_path: Path) -> None:
    method = Osf()
    first = learn_task(method, base, None, tmp_path / "1")
    # Weights are float32 and move by little: 1e-5 of a change is rounding. Without projection it is a tenth.
    assert leaks(base, first, 1 / 2).max() < 1e-4
    second = learn_task(method, base, first, tmp_path / "2")  # decomposed again, a larger share of it kept
    assert leaks(first, second, 2 / 3).max() < 1e-4


def test_peft_alone_leaves_the_subspace_under_adamw(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why factors are projected: a step is rescaled entry by entry, though its gradient was orthogonal."""
    monkeypatch.setattr(seekr.methods.osf, "project", lambda model: None)
    assert leaks(base, learn_task(Osf(), base, None, tmp_path / "1"), 1 / 2).max() > 0.02


def test_every_loss_is_of_the_weights_that_would_be_kept(base: Path) -> None:
    """Projected behind each step, not only behind the last: else what is trained is not what is saved."""
    method, batch = Osf(), task_batch(toy_samples(4))
    model = method.form.load_trainable(str(base), None, dtype="float32", lora=None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    kept = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())["model.layers.0.mlp.up_proj.weight"]
    left = torch.linalg.svd(kept.detach())[0][:, : 32 // 2]
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    objective, leaks = InSubspace(method), []
    for step in range(4):
        objective.task_loss(model, batch)["task"].backward()
        leaks.append(float((left.T @ layer.osf_svd_params["default"]["U_low"].detach()).abs().max()))
        objective.after_backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    stepped = float((left.T @ layer.osf_svd_params["default"]["U_low"].detach()).abs().max())
    assert max(leaks) < 1e-5 < 1e-3 < stepped


@pytest.mark.parametrize("around", AROUND)
def test_kept_directions_are_kept_in_every_precision(tmp_path: Path, around: str) -> None:
    """What is projected and what a stage is merged to are products of float32 matrices, here of some size."""
    LlamaForCausalLM(
        LlamaConfig(vocab_size=96, hidden_size=128, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)

    def numbers() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Osf().form.load_trainable(str(tmp_path), None, dtype="float32", lora=None)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01 * torch.randn_like(parameter))
        project(model)
        projected = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        return projected + [parameter.detach() for parameter in Osf().form.trained(model).parameters()]

    assert_same_bits(numbers, around)


def test_kept_directions_answer_as_before(base: Path, tmp_path: Path) -> None:
    """A weight does to its kept directions, and they to its output, just what the old one did."""
    new = learn_task(Osf(kept_rank=0.3), base, None, tmp_path / "1")
    name = "model.layers.1.mlp.up_proj.weight"
    was, now = (AutoModelForCausalLM.from_pretrained(path).get_parameter(name).detach().numpy() for path in (base, new))
    # 1e-5: thirty projected steps in float32 leave 4e-6, or a little more or less by the processor.
    was, now = was.astype(np.float64), now.astype(np.float64)
    left, values, right = np.linalg.svd(was)
    kept = int(0.3 * 32)
    assert np.allclose(now @ right[:kept].T, left[:, :kept] * values[:kept], atol=1e-5)
    assert np.allclose(left[:, :kept].T @ now, values[:kept, None] * right[:kept], atol=1e-5)
    assert not np.allclose(now @ right[kept:].T, was @ right[kept:].T, atol=1e-2)


@pytest.mark.parametrize(
    ("kept_rank", "shares"),
    [(None, [1 / 2, 2 / 3, 3 / 4, 4 / 5]), (0.25, [0.25] * 4), ([0.3, 0.5, 0.7], [0.3, 0.5, 0.7, 0.7])],
)
def test_kept_shares(kept_rank: float | list[float] | None, shares: list[float]) -> None:
    assert [Osf(kept_rank=kept_rank).kept_share(task) for task in range(4)] == pytest.approx(shares)


def test_training_begins_where_the_model_stands_and_counts_its_tasks(base: Path, tmp_path: Path) -> None:
    method = Osf()
    ids = torch.arange(3, 30)[None]
    weights: Path | None = None
    for task in range(3):
        before = method.form.load(str(base), weights, dtype="float32")
        model = method.form.load_trainable(str(base), weights, dtype="float32", lora=None)
        assert torch.allclose(model(ids).logits, before(ids).logits, atol=1e-6)
        kept = {layer.effective_rank["default"] for layer in seekr.methods.osf._layers(model)}
        assert kept == {int(size * (task + 1) / (task + 2)) for size in (16, 32)}
        weights = tmp_path / str(task)
        method.form.trained(model).save_pretrained(weights)


def test_parameters_of_a_stage_are_those_of_the_model(base: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base)
    whole = sum(parameter.numel() for parameter in plain.parameters())
    model = Osf().form.adapt(plain, None)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert Osf().form.stored_parameters(model, trained) == whole
    assert 0 < trained < whole


def test_layers_that_peft_passes_over_are_refused() -> None:
    """All projections of GPT-2 are Conv1D."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    with pytest.raises(InputError, match=r"none of its projections is a torch\.nn\.Linear"):
        Osf().form.adapt(model, None)
