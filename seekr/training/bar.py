"""The progress bar of a training run, as a callback of transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.progress import Advance, bar


class TrainingBar(TrainerCallback):
    """One bar over the optimizer steps of both kinds of the task at a place in the run; `losses` gives what to show
    next to it after each."""

    def __init__(self, label: str, place: int, losses: Callable[[], dict[str, float]]) -> None:
        self.label = label
        self.place = place
        self.losses = losses
        self._shown = ExitStack()
        self._advance: Advance | None = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            shown = bar(self.label, state.max_steps, done=state.global_step, place=self.place)
            self._advance = self._shown.enter_context(shown)

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._advance is not None:
            self._advance(1, **self.losses())

    def close(self) -> None:
        """Take the bar down, however training ended."""
        self._shown.close()
        self._advance = None
