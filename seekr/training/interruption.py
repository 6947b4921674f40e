"""Ctrl-C, SIGTERM, SIGHUP while a model trains: finish the step, write a checkpoint, stop. Again: stop at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.distributed.processes import gathered, summed


class Interruption(TrainerCallback):
    """Asks the Trainer for a checkpoint and an early end once a signal has come to any of the processes."""

    def __init__(self) -> None:
        self.signalled = False
        self.asked = False

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # All processes stop after the same step, whichever of them has heard of it.
        self.asked = bool(summed(torch.tensor(float(self.signalled)), args.device))
        if self.asked:
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def stopping_politely() -> Iterator[Interruption]:
    """Yields the callback; raises KeyboardInterrupt after the block if a signal came inside it."""
    interruption = Interruption()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if interruption.signalled:
            raise KeyboardInterrupt
        interruption.signalled = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"seekr: stopping after this step; once more stops at once\n")

    # Only the main thread may set handlers; elsewhere (a notebook's worker) signals do what they always did.
    here = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    old = {number: signal.signal(number, ask) for number in heard} if here else {}
    try:
        yield interruption
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if interruption.asked or any(gathered(interruption.signalled)):
        raise KeyboardInterrupt
