"""What a method says of its costs, for plans, besides what its own steps show; no tensor here has numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from seekr.attention.rows import QueryKeyRows
from seekr.attention.tap import AttentionCall
from seekr.data.token_rows import TokenizedRow
from seekr.modeling.losses import TopLogits

MEASURED_TOGETHER = 4  # samples in one forward while measuring, at most, and never more than in one of training


class Costs:
    """What a plan cannot see in a method's steps.

    Class attributes:
        bytes_a_weight: on the disk, with each trained weight of a stage.
        unplanned: what the method holds or does that `seekr plan` does not count.
    """

    bytes_a_weight: ClassVar[int] = 0
    unplanned: ClassVar[str] = ""

    @property
    def measures(self) -> str:
        """What `measure` is about, such as "heads"; "" = nothing is measured."""
        return ""

    def kept_rows(self, rows: int) -> int:
        """How many of a task's rows are kept once it is learned."""
        return 0

    def advice(self, rows: Mapping[str, int]) -> list[str]:
        """What to say before tasks of so many rows (task → rows) are learned, a sentence each."""
        return []

    def places_of(self, rows: int, seed: int, index: int, *, learn: bool = True) -> Sequence[int]:
        """Where in the data of the task at `index` of a run the kept rows stand; as many of any, where that is not
        known before."""
        return [place % rows for place in range(self.kept_rows(rows))]

    def likely_logits(self, row: TokenizedRow, vocabulary: int) -> TopLogits | None:
        """What is stored of a teacher's logits for a row."""
        return None

    def likely_attention(self, calls: Mapping[int, AttentionCall], tokens: int) -> dict[int, QueryKeyRows]:
        """Layer → what is stored of the attention of a row, as queries and keys; `calls` are any of each layer."""
        return {}

    def attention_bytes(self, kept: Mapping[int, QueryKeyRows]) -> int:
        """Bytes of `likely_attention` as it is stored."""
        return 0
