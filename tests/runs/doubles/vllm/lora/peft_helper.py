from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class PEFTHelper:
    def __init__(self, adapter: dict[str, Any]) -> None:
        self.adapter = adapter

    @classmethod
    def from_dict(cls, adapter: dict[str, Any]) -> PEFTHelper:
        return cls(adapter)

    def validate_legal(self, config: SimpleNamespace) -> None:
        if self.adapter["r"] > config.max_lora_rank:
            raise ValueError("LoRA rank is greater than max_lora_rank")
        if self.adapter["use_dora"]:
            raise ValueError("vLLM does not yet support DoRA.")
