"""Weights in 16 bits that do not move are told with a share that is counted, and nothing is told where they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy_training import ToyMethod, toy_model, toy_trainer
from transformers import TrainerCallback

from seekr.training.rounding import STEPS, RoundingWatch


class Moved(TrainerCallback):
    """Every weight before the first step and behind the last that the watch looks at, and whether it had a gradient."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.before: Any = None
        self.asked: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step < self.first:
            return
        if self.before is None:
            self.before = [p.detach().clone() for p in model.parameters()]
            self.asked = [torch.zeros_like(p, dtype=torch.bool) for p in self.before]
        for asked, p in zip(self.asked, model.parameters(), strict=True):
            asked |= p.grad != 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.first + STEPS:
            pairs = list(zip(self.before, model.parameters(), self.asked, strict=True))
            still = sum(int(((p == before) & asked).sum()) for before, p, asked in pairs)
            self.share = still / sum(int(asked.sum()) for asked in self.asked)


def run(folder: Path, model: Any, *more: TrainerCallback, **settings: Any) -> RoundingWatch:
    watch = RoundingWatch("toy")
    settings = {"num_train_epochs": 6, "lr_scheduler_type": "constant", **settings}
    toy_trainer(folder, model=model, kept=(), method=ToyMethod(), callbacks=[watch, *more], **settings).train()
    return watch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_share_is_what_is_counted(tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    moved = Moved()
    watch = run(tmp_path, toy_model().to(dtype), moved, learning_rate=1e-6)
    assert watch.share == pytest.approx(moved.share, abs=0.02)  # of some weights of each parameter
    assert watch.share > 0.4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seekr:")]
    assert f"{watch.share:.0%} of the weights did not move in the first 10 steps" in line
    assert f"learning rate of 1e-06 round away in {str(dtype).removeprefix('torch.')}; set dtype: float32" in line


def test_nothing_is_told_where_weights_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = run(tmp_path / "fast", toy_model().bfloat16(), learning_rate=1e-2)
    assert watch.share is not None
    assert watch.share < 0.05
    assert run(tmp_path / "float32", toy_model(), learning_rate=1e-7).share is None
    adapted = get_peft_model(toy_model().bfloat16(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert run(tmp_path / "adapter", adapted, learning_rate=1e-7).share is None  # peft keeps it in float32
    assert "did not move" not in capsys.readouterr().err


def test_warm_up_is_waited_for(tmp_path: Path) -> None:
    """In it steps are so small that hardly anything moves, also at a rate that is large enough."""
    moved = Moved(first=6)
    settings = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 12, "num_train_epochs": 8}
    watch = run(tmp_path, toy_model().bfloat16(), moved, learning_rate=1e-3, **settings)
    assert watch.share == pytest.approx(moved.share, abs=0.02)


def test_a_task_of_few_steps_is_measured_over_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = run(tmp_path, toy_model().bfloat16(), learning_rate=1e-12, max_steps=3)
    assert watch.share == 1.0
    assert "100% of the weights did not move in the first 3 steps" in capsys.readouterr().err
