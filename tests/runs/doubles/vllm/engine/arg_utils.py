from dataclasses import dataclass
from types import SimpleNamespace

import torch


@dataclass
class EngineArgs:
    model: str = ""
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    generation_config: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    enable_lora: bool = False
    max_lora_rank: int = 16
    disable_log_stats: bool = False
    enforce_eager: bool = False
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    device_ids: list[int] | None = None

    def create_engine_config(self) -> SimpleNamespace:
        if self.gpu_memory_utilization > 1:
            raise ValueError("GPU memory utilization must be less than 1.0")
        lora = SimpleNamespace(max_lora_rank=self.max_lora_rank) if self.enable_lora else None
        return SimpleNamespace(lora_config=lora, model_config=SimpleNamespace(dtype=getattr(torch, self.dtype)))
