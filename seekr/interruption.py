"""Ctrl-C and SIGTERM while a model trains: finish the step, write a checkpoint, stop. A second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override


class Interruption(TrainerCallback):
    """Asks the Trainer for a checkpoint and an early end once a signal has come."""

    def __init__(self) -> None:
        self.asked = False

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.asked:
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def stopping_politely() -> Iterator[Interruption]:
    """Yields the callback; raises KeyboardInterrupt behind the block if a signal came inside it."""
    interruption = Interruption()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if interruption.asked:
            raise KeyboardInterrupt
        interruption.asked = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"seekr: stopping after this step; once more stops at once\n")

    # Only the main thread may set handlers; elsewhere (a notebook's worker) signals do what they always did.
    here = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield interruption
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if interruption.asked:
        raise KeyboardInterrupt
