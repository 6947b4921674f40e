"""What libraries say on stderr: advice to who calls them is left out, what they find wrong with a result is not."""

from __future__ import annotations

import logging
import os
import re
import warnings

from seekr.errors import visible

_ADVICE = {
    "transformers.configuration_utils": "torch_dtype",
    "transformers.generation.configuration_utils": "generation flags are not valid",  # answers are greedy here
    "transformers.modeling_layers": "incompatible with gradient checkpointing",
    "transformers.modeling_utils": "LOAD REPORT|seem corrupted|torch_dtype|loss_type",  # a report is an error here
    "transformers.utils.generic": "incompatible with gradient checkpointing",
}
"""Logger → what its advice says."""


def leave_out_advice() -> None:
    """Sets what libraries print, before they are imported; what the environment says already holds."""
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = lambda *said, **more: visible(_plainly(*said, **more))
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, advice in _ADVICE.items():
        logging.getLogger(name).addFilter(_Advice(advice))


_plainly = warnings.formatwarning


class _Record(logging.LogRecord):
    """What a library says, with names of files and tasks in it."""

    def getMessage(self) -> str:
        return visible(super().getMessage())


class _Advice(logging.Filter):
    def __init__(self, advice: str) -> None:
        super().__init__()
        self.advice = re.compile(advice)

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.advice.search(record.getMessage())

    def __eq__(self, other: object) -> bool:  # the same command twice in a process adds no second one
        return isinstance(other, _Advice) and other.advice == self.advice

    def __hash__(self) -> int:
        return hash(self.advice)
