"""log.jsonl: one line an optimizer step, and no step twice however often a run is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.disk import regular, sync


class StepLog(TrainerCallback):
    """Appends lines to `path`; when a run begins or resumes, lines after its step are dropped.

    `watch` is given each line too.
    """

    def __init__(self, path: Path, watch: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path = path
        self.watch = watch

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and flush it. Numbers that JSON does not know become null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if self.watch is not None:
            self.watch(line)

    def truncate(self, step: int) -> None:
        """Keep the whole lines of steps up to `step`."""
        kept = 0
        if self.path.exists():
            regular(self.path)
        with self.path.open("ab+") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                kept += len(line)
            file.truncate(kept)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.truncate(state.global_step)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint that survives a power cut must find the lines of its steps.
        if state.is_world_process_zero and self.path.exists():
            sync(self.path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
