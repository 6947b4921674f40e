"""One optimizer step is the same step however it is cut up, and the log tells what was done."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from toy_training import Gradients, ToyMethod, log_lines, toy_model, toy_rows, toy_trainer, weights
from transformers import ProgressCallback, TrainerCallback, TrainingArguments

from seekr.errors import InputError, RunError
from seekr.modeling.batches import MicroBatch, collate
from seekr.training.trainer import ContinualTrainer


def gradients_of(folder: Path, **settings: object) -> tuple[list[Tensor], ContinualTrainer]:
    """Gradients of all steps, at the weights of the beginning: the learning rate is 0."""
    gradients = Gradients()
    trainer = toy_trainer(folder, callbacks=[gradients], **{"learning_rate": 0.0} | settings)
    trainer.train()
    return gradients.steps, trainer


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """All of a line but its kind, and the shares, which are those of the first micro-batch alone."""
    return {name: value for name, value in line.items() if name not in ("kind", "gradient_share")}


def assert_same(steps: list[Tensor], expected: list[Tensor]) -> None:
    assert len(steps) == len(expected)
    for step, wanted in zip(steps, expected, strict=True):
        torch.testing.assert_close(step, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.parametrize(("samples", "kept"), [(11, (3, 2)), (3, (20, 9)), (17, ()), (8, (1,)), (1, (1,))])
def test_accumulation_is_a_bigger_batch(tmp_path: Path, samples: int, kept: tuple[int, ...]) -> None:
    whole, _ = gradients_of(tmp_path / "8x1", per_device_train_batch_size=8, samples=samples, kept=kept)
    for rows, accumulation in ((4, 2), (1, 8)):
        folder = tmp_path / f"{rows}x{accumulation}"
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        steps, trainer = gradients_of(folder, samples=samples, kept=kept, **settings)
        assert_same(steps, whole)
        assert trainer.state.max_steps == len(whole) == 2 * len(trainer.plan)
        for line, wanted in zip(log_lines(folder), log_lines(tmp_path / "8x1"), strict=True):
            assert numbers(line) == pytest.approx(numbers(wanted), rel=1e-5)
            assert line["kind"] == wanted["kind"]


def test_a_step_is_the_loss_over_its_rows_by_its_definition(tmp_path: Path) -> None:
    steps, trainer = gradients_of(tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=2)
    lines = log_lines(tmp_path)
    plan = [step for epoch in (0, 1) for step in trainer.plan.epoch(epoch)]
    for gradient, step, line in zip(steps, plan, lines, strict=True):
        model = toy_model()
        inputs = collate([trainer.rows.encoded(row) for row in step.rows], 0)
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        expected = {step.kind: nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}
        if step.kind == "replay":
            means = [
                row[mask.bool()].logsumexp(-1).mean()
                for row, mask in zip(logits, inputs["attention_mask"], strict=True)
            ]
            expected["spread"] = 0.5 * torch.stack(means).mean()
        sum(expected.values()).backward()
        by_hand = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-6 * by_hand.abs().max().item())
        assert line["kind"] == step.kind
        assert {name: line[name] for name in expected} == pytest.approx(
            {name: part.item() for name, part in expected.items()}, rel=1e-5
        )
        assert line["loss"] == pytest.approx(sum(part.item() for part in expected.values()), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(by_hand.norm().item(), rel=1e-5)


def test_micro_batches_of_a_run(tmp_path: Path) -> None:
    method = ToyMethod()
    trainer = toy_trainer(tmp_path, method=method, gradient_accumulation_steps=2, per_device_train_batch_size=3)
    trainer.train()
    assert len(method.seen) == 2 * 2 * len(trainer.plan)
    for first, second in zip(method.seen[::2], method.seen[1::2], strict=True):
        assert first.kind == second.kind
        assert first.step_rows == second.step_rows
        assert first.step_tokens == second.step_tokens
        counted = [row for batch in (first, second) for row, w in zip(batch.rows, batch.weights, strict=True) if w]
        assert sorted(counted) == sorted(first.step_rows)
        assert all(len(batch.rows) <= 3 for batch in (first, second))
        labels = [trainer.rows.encoded(row).labels for row in first.step_rows]
        assert first.step_tokens == sum((row[1:] != -100).sum() for row in labels)


def test_max_steps_schedule_and_workers_count_both_kinds(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path,
        max_steps=7,
        lr_scheduler_type="linear",
        per_device_train_batch_size=2,
        dataloader_num_workers=1,
        save_strategy="steps",
        save_steps=3,
    )
    trainer.train()
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert [line["kind"] for line in lines] == list(trainer.plan.kinds[:7])
    assert {line["kind"] for line in lines} == {"task", "replay"}
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-2 * (7 - i) / 7 for i in range(7)])
    saved = {path.name for path in (tmp_path / "training").iterdir()}
    assert {"checkpoint-3", "checkpoint-6"} <= saved


def test_without_memories_there_is_no_replay(tmp_path: Path) -> None:
    toy_trainer(tmp_path, kept=()).train()
    assert {line["kind"] for line in log_lines(tmp_path)} == {"task"}


def test_gradient_checkpointing_gives_the_plain_gradients(tmp_path: Path) -> None:
    plain, _ = gradients_of(tmp_path / "plain")
    checkpointed, trainer = gradients_of(tmp_path / "checkpointed", gradient_checkpointing=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
    assert_same(checkpointed, plain)
    for line, wanted in zip(log_lines(tmp_path / "checkpointed"), log_lines(tmp_path / "plain"), strict=True):
        assert line.get("gradient_share", {}) == pytest.approx(wanted.get("gradient_share", {}), rel=1e-5)


def test_reentrant_checkpointing_is_refused(tmp_path: Path) -> None:
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(InputError, match="use_reentrant"):
        toy_trainer(tmp_path, **options)


def test_an_empty_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        toy_trainer(tmp_path, samples=0)


def test_lora_trains_the_adapter_alone(tmp_path: Path) -> None:
    adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2)
    model = get_peft_model(toy_model(), adapter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    toy_trainer(tmp_path, model=model).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert {name for name in before if "lora_B" in name} <= moved


def test_bf16_autocast_keeps_float32_weights(tmp_path: Path) -> None:
    seen = []

    class Spy(ToyMethod):
        def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
            hook = model.model.layers[0].mlp.register_forward_hook(lambda *call: seen.append(call[2].dtype))
            try:
                return super().task_loss(model, batch)
            finally:
                hook.remove()

    trainer = toy_trainer(tmp_path, bf16=True, method=Spy())
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert not torch.equal(weights(trainer.model), weights(toy_model()))


def test_reports_carry_the_loss_parts_and_callbacks_work(tmp_path: Path) -> None:
    class Reports(TrainerCallback):
        def __init__(self) -> None:
            self.logs: list[dict[str, float]] = []

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            self.logs.append(logs)

    reports = Reports()
    trainer = toy_trainer(tmp_path, callbacks=[reports], logging_steps=4, include_num_input_tokens_seen="all")
    trainer.train()
    lines = log_lines(tmp_path)[:4]
    assert {line["kind"] for line in lines} == {"task", "replay"}
    first = reports.logs[0]
    assert first["loss"] == pytest.approx(sum(line["loss"] for line in lines) / 4, rel=1e-5)
    for name, kind in (("task", "task"), ("replay", "replay"), ("spread", "replay")):
        values = [line[name] for line in lines if line["kind"] == kind]
        assert first[f"{kind}/{name}"] == pytest.approx(sum(values) / len(values))
    assert trainer.state.num_input_tokens_seen > 0
    assert not any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, value: float) -> None:
    class Broken(ToyMethod):
        def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
            parts = super().replay_loss(model, batch)
            if (1, 0) in batch.rows:  # in one micro-batch of two, and never in a filler's
                self.kept = weights(model).clone()
                parts["spread"] = parts["spread"] * value
            return parts

    method = Broken()
    trainer = toy_trainer(tmp_path, method=method, gradient_accumulation_steps=2, kept=(3, 1))
    with pytest.raises(RunError) as raised:
        trainer.train()
    assert torch.equal(weights(trainer.model), method.kept)
    message = str(raised.value)
    step = trainer.state.global_step + 1
    assert f"task 'toy', step {step} (replay)" in message
    assert "row 0 of memory 1" in message
    faulty = next(batch for batch in method.seen if (1, 0) in batch.rows and batch.kind == "replay")
    for memory, i in set(faulty.step_rows) - set(faulty.rows):
        assert f"row {i} of memory {memory}" not in message
    assert "\n" not in message
    assert [line["step"] for line in log_lines(tmp_path)] == list(range(1, step))


def test_gradients_that_are_not_finite_are_no_reason_to_stop(tmp_path: Path) -> None:
    class Steep(ToyMethod):
        def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
            parts = super().task_loss(model, batch)
            zero = next(iter(model.parameters())).sum() * 0
            return {"task": parts["task"] + zero.abs().sqrt()}  # a finite value with an infinite slope

    trainer = toy_trainer(tmp_path, method=Steep(), max_steps=1, kept=())
    trainer.train()
    assert log_lines(tmp_path)[0]["grad_norm"] is None


def test_the_callers_arguments_and_the_models_cache_setting_stay(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), save_total_limit=1, report_to="none", use_cpu=True)
    before = arguments.to_dict()
    model = toy_model()
    trainer = ContinualTrainer(
        model,
        arguments,
        losses=ToyMethod(),
        train_samples=toy_rows(3, seed=0),
        task_name="toy",
        task_index=0,
        log_path=tmp_path / "log.jsonl",
    )
    trainer.train()
    assert arguments.to_dict() == before
    assert model.config.use_cache is True


def test_a_method_that_forgets_a_part_is_told(tmp_path: Path) -> None:
    class Forgetful(ToyMethod):
        def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
            parts = super().replay_loss(model, batch)
            return parts if batch.weights.any() else {"replay": parts["replay"]}

    with pytest.raises(ValueError, match="spread"):
        toy_trainer(tmp_path, method=Forgetful(), kept=(1,), gradient_accumulation_steps=2).train()


def test_a_method_sees_the_whole_gradient_of_each_step_before_it_is_clipped(tmp_path: Path) -> None:
    class Stopping(ToyMethod):
        def after_backward(self, model: nn.Module, step: int) -> None:
            found.append((step, torch.cat([p.grad.flatten().clone() for p in model.parameters()])))
            for p in model.parameters():
                p.grad.mul_(0)

    gradients, ends = [], []
    for accumulation in (1, 2):
        found: list[tuple[int, Tensor]] = []
        trainer = toy_trainer(
            tmp_path / str(accumulation),
            method=Stopping(),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=1e-3,
        )
        trainer.train()
        assert [step for step, _ in found] == list(range(trainer.state.global_step))
        gradients.append(torch.stack([gradient for _, gradient in found]))
        ends.append(weights(trainer.model))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert gradients[0].norm(dim=1).max() > 1e-2
    assert torch.equal(ends[0], ends[1])
