"""A tiny model, ragged rows and a method with two loss parts, shared by the tests of the trainer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from seekr.methods import Objective, Sequential
from seekr.modeling.batches import MicroBatch
from seekr.training.trainer import ContinualTrainer


@dataclass
class ToyRow:
    input_ids: np.ndarray
    labels: np.ndarray


class ToyMemory:
    def __init__(self, rows: list[ToyRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, i: int) -> ToyRow:
        return self.rows[i]


def toy_rows(n: int, seed: int) -> list[ToyRow]:
    """Rows of 3 to 12 tokens, the last 1 to all but one of which are answer tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        length = int(generator.integers(3, 13))
        tokens = generator.integers(1, 32, length).astype(np.int32)
        labels = tokens.copy()
        labels[: int(generator.integers(0, length - 1))] = -100
        rows.append(ToyRow(tokens, labels))
    return rows


def toy_model(dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config)


def toy_experts() -> MixtralForCausalLM:
    """A mixture of experts that asks to be balanced."""
    torch.manual_seed(7)
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    return MixtralForCausalLM(config)


class ToyMethod(Objective):
    """Cross-entropy over the step's answer tokens, and for replay a part that is a mean over the step's rows."""

    def __init__(self) -> None:
        super().__init__(Sequential())
        self.seen: list[MicroBatch] = []

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        self.seen.append(batch)
        return {"task": self._cross_entropy(model(**batch.inputs).logits, batch)}

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        self.seen.append(batch)
        logits = model(**batch.inputs).logits
        mask = batch.inputs["attention_mask"]
        spread = (logits.logsumexp(-1) * mask).sum(-1) / mask.sum(-1)
        return {
            "replay": self._cross_entropy(logits, batch),
            "spread": 0.5 * (spread * batch.weights).sum() / len(batch.step_rows),
        }

    @staticmethod
    def _cross_entropy(logits: Tensor, batch: MicroBatch) -> Tensor:
        losses = nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), batch.labels[:, 1:], ignore_index=-100, reduction="none"
        )
        return (losses * batch.weights[:, None]).sum() / batch.step_tokens


class Gradients(TrainerCallback):
    """The gradient of each step; with max_grad_norm 0 nothing clips it."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = [p for p in kwargs["model"].parameters() if p.requires_grad]
        self.steps.append(torch.cat([p.grad.detach().flatten().clone() for p in parameters]))


class StopBehind(TrainerCallback):
    """An interruption right behind an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def toy_trainer(
    folder: Path,
    *,
    samples: int = 11,
    kept: tuple[int, ...] = (3, 2),
    model: Any = None,
    method: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    gradient_share_every: int = 50,
    **settings: Any,
) -> ContinualTrainer:
    defaults: dict[str, Any] = {
        "output_dir": str(folder / "training"),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "max_grad_norm": 0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "seed": 3,
    }
    losses: Any = method or ToyMethod()
    losses.memories = [ToyMemory(toy_rows(size, seed=10 + i)) for i, size in enumerate(kept)]
    return ContinualTrainer(
        model if model is not None else toy_model(),
        TrainingArguments(**(defaults | settings)),
        losses=losses,
        train_samples=toy_rows(samples, seed=1),
        task_name="toy",
        task_index=1,
        log_path=folder / "log.jsonl",
        pad_token_id=0,
        gradient_share_every=gradient_share_every,
        callbacks=callbacks,
    )


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
