"""What the figures of a plan leave out or assume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seekr.planning.kept import Disk, keeps_attention
from seekr.planning.paper import Paper
from seekr.planning.reading import RunOnPaper
from seekr.report.terminal import readable_bytes

if TYPE_CHECKING:
    from transformers import TrainingArguments

NOT_COUNTED = {
    "ewc": "the Fisher information while it is measured, in CPU memory: 8 bytes a trained weight",
    "lwf": "on the disk, while a task is learned, 8 bytes for each recorded logit of each answer token of its rows",
    "kl_anchor": "on the disk, while a task is learned, 8 bytes for each recorded logit of each token of its rows",
    "olora": "the adapters of earlier tasks beside the new one, in memory and in each forward",
    "on_policy_replay": "generating answers to the kept prompts, with their keys and values",
    "l2p": "the forward that chooses prompts, and counting how often each was chosen",
    "progressive_prompts": "the prompts of earlier tasks in front of every row",
    "lfpt5": "rows made up by the model: generating them, and the loss of the generator",
}
"""What a method holds or does besides."""


def optimizer_name(arguments: TrainingArguments) -> str:
    """As `training.optim` has it."""
    return str(getattr(arguments.optim, "value", arguments.optim))


def notes_of(run: RunOnPaper, paper: Paper, optimizer: int | None, saved: Disk, learned: int) -> list[str]:
    """What the figures leave out or assume, one line each."""
    notes = []
    if optimizer is None:
        notes.append(f"the state of optimizer {optimizer_name(run.arguments)} is not known here and is not counted")
    if run.method.name in NOT_COUNTED:
        notes.append(f"method {run.method.name}: not counted is {NOT_COUNTED[run.method.name]}")
    if run.method.average is not None:
        notes.append("average: once a task is trained, the model before it lies in CPU memory beside, not counted")
    if paper.attention not in ("sdpa", "eager"):
        notes.append(f"attention {paper.attention} is taken to hold queries, keys, values and output, and no map")
    if keeps_attention(run.method):
        notes.append("chosen heads are not known before: the budget is taken as spread evenly over its layers")
    if saved.kept_stages == learned > 1:
        notes.append(
            f"keep_stages: last keeps the weights of one stage, {readable_bytes(saved.one_stage)} in place of "
            f"{readable_bytes(saved.stages)}"
        )
    notes.append(
        "estimates: the allocator's fragments, a kernel's own workspace and what a CUDA context takes come on top; "
        "hours are of training steps alone, generating and scoring answers not counted"
    )
    return notes
