"""A mix of general data: rows of what the model could do before are replayed, none of the tasks that it learns."""

from __future__ import annotations

from collections.abc import Mapping

from seekr.errors import InputError
from seekr.methods.replay import Ratio, Replay


class GeneralReplay(Replay):
    """Keeps the rows of the skills of a run (`learn: false`) and replays them while each task is learned.

    A skill's train rows are the general data: a sample of what the base model was trained on, or of chats in general. A
    replay step's loss is the cross-entropy of their answers, as with `replay`. Nothing is kept of a task that is
    learned. A run needs a skill.

    Args:
        replay_ratio: kept share of a skill's rows, 0 < ratio ≤ 1: all by default.

    All other settings are those of `Replay`.

    Source: Ibrahim et al., arXiv 2403.08763: a small share of earlier data in continual pre-training; Kotha and Liang,
        arXiv 2603.04964: generic data replayed while a model is fine-tuned.
    """

    name = "general_replay"

    replay_ratio: Ratio = 1.0

    def check_run(self, *, dtype: str, lora: bool, skills: bool) -> None:
        if not skills:
            raise InputError(
                "method general_replay: no task is a skill, so there are no general rows to replay; add them as a task "
                "with learn: false, as in {name: general, train: general.json, learn: false}"
            )

    def advice(self, rows: Mapping[str, int]) -> list[str]:
        """Nothing: the ratio is of the skills alone."""
        return []

    def places_of(self, rows: int, seed: int, index: int, *, learn: bool = True) -> list[int]:
        return [] if learn else super().places_of(rows, seed, index, learn=learn)
