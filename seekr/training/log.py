"""log.jsonl: one line an optimizer step, and no step twice however often a run is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.disk.files import parse_json, sync, write_atomically
from seekr.disk.full import naming
from seekr.disk.regular import read_bytes
from seekr.errors import say
from seekr.modeling.batches import StepKind
from seekr.training.checkpoints import checkpoint_step, log_fault


class StepLog(TrainerCallback):
    """Appends lines to `path`; when a run begins or resumes, lines after its step are dropped.

    `watch` is given each line too.
    """

    def __init__(self, path: Path, watch: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path = path
        self.watch = watch

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and flush it. Numbers that JSON does not know become null."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if self.watch is not None:
            self.watch(line)

    def truncate(self, checkpoint: Path) -> None:
        """Keep the lines of steps up to that of a checkpoint, of which none is there for step 0.

        Those that cannot be read are left out, and lines that are not as they were are named: no later task needs them.
        """
        step = checkpoint_step(checkpoint)
        content = read_bytes(self.path) if self.path.exists() else b""
        kept = [line for line in content.splitlines(keepends=True) if 0 < _step_of(line) <= step]
        if log_fault(checkpoint, self.path) or len(kept) < step:
            say(
                f"{self.path}: not what was written up to {checkpoint.name}; {len(kept)} of its {step} lines can be "
                "read and are kept, and no later task needs them"
            )
        write_atomically(self.path, b"".join(kept))

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.truncate(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint that survives a power cut must find the lines of its steps.
        if state.is_world_process_zero and self.path.exists():
            sync(self.path)


def _step_of(line: bytes) -> int:
    """The step that a line of the log is of; 0 where it is torn, or no such line."""
    try:
        row = parse_json(line.decode()) if line.endswith(b"\n") else {}
        step, kind = row["step"], row["kind"]
    except (ValueError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) and kind in get_args(StepKind) else 0


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
