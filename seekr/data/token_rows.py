"""A row as token ids, and which of them are learned."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

IGNORED = -100  # the label of a token that is no answer token, as in torch's cross_entropy


class TokenizedRow(Protocol):
    """One tokenized sample: `input_ids` and `labels`, both `[tokens]`."""

    @property
    def input_ids(self) -> Any: ...

    @property
    def labels(self) -> Any: ...


def answer_tokens(row: TokenizedRow) -> int:
    """Answer tokens of a row that some position predicts: the very first token never is one."""
    return int((np.asarray(row.labels)[1:] != IGNORED).sum())
