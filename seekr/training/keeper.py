"""Checkpoints inside a task are written in place by the Trainer; a marker that comes last makes each whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from seekr.disk.files import flush, list_files, sync
from seekr.distributed.processes import process_count, wait_for_all
from seekr.errors import RunError, some
from seekr.training.checkpoints import checkpoint_step, checkpoints_of, is_complete, mark, remove_checkpoint


class CheckpointKeeper(TrainerCallback):
    """Marks each checkpoint complete once it lies on the disk, and keeps the newest `limit` (None = all).

    The Trainer's own rotation would delete the last complete checkpoint before the new one is marked. `log`: the log
    of the task, whose lines so far the marker knows too.
    """

    def __init__(self, limit: int | None, log: Path) -> None:
        self.limit = limit
        self.log = log

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # What lies beyond the step that training goes on from would be taken for its future later on.
        if state.is_world_process_zero:
            for checkpoint in checkpoints_of(Path(str(args.output_dir))):
                if not is_complete(checkpoint) or checkpoint_step(checkpoint) > state.global_step:
                    remove_checkpoint(checkpoint)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        wait_for_all()  # every process has written its part
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        checkpoint = folder / f"checkpoint-{state.global_step}"
        if not checkpoint.is_dir():
            return
        flush(checkpoint)
        mark(checkpoint, processes=process_count(), files=list_files(checkpoint), log=self.log)
        sync(folder)
        if self.limit is not None:
            for old in checkpoints_of(folder)[: -self.limit]:
                remove_checkpoint(old)


def lost_weights(model: nn.Module, missing: Sequence[str]) -> list[str]:
    """Those of the `missing` names of a checkpoint that are no other name of a weight that it had."""
    there = model.state_dict()
    loaded = {tensor.data_ptr() for name, tensor in there.items() if name not in missing}
    return [name for name in missing if name not in there or there[name].data_ptr() not in loaded]


def check_all_loaded(model: nn.Module, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Raises RunError unless a checkpoint had every weight of the model, tied ones once, and no other.

    transformers only warns, and trains on with what the model had before.
    """
    lost = lost_weights(model, missing)
    if lost or unexpected:
        lacks = f"lacks {some(lost, 3)}" if lost else ""
        more = f"has {some(unexpected, 3)}, which the model does not" if unexpected else ""
        raise RunError(
            f"a checkpoint {' and '.join(filter(None, (lacks, more)))}: it is of another version of the model's code; "
            "resume with the versions that wrote it (run.json names them), or delete working/ to begin the task again"
        )


def load_by_family(model: PreTrainedModel, checkpoint: Path) -> None:
    """Loads a checkpoint whose weights have other names than the model's, such as those of single experts.

    transformers saves mixtures of experts by the names of their published files, and `from_pretrained` alone reads
    these back: the Trainer would go on with what the model had before. Raises RunError.
    """
    kind: Any = type(model)
    found, about = kind.from_pretrained(
        checkpoint, dtype=model.dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    mismatched = [name for name, *_ in about["mismatched_keys"]]
    check_all_loaded(model, sorted({*about["missing_keys"], *mismatched}), sorted(about["unexpected_keys"]))
    model.load_state_dict(found.state_dict())


def load_trained_adapter(model: nn.Module, checkpoint: Path) -> None:
    """Loads the adapter that is trained, where others lie next to it in folders of their own.

    transformers 5.17 loads those alone, so that a resumed task would begin again without a word.
    """
    if isinstance(model, PeftModel) and any(checkpoint.glob("*/adapter_model.safetensors")):
        model.load_adapter(str(checkpoint), "default", is_trainable=True)
