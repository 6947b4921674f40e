"""Reading the attention of any decoder without building its maps; knows torch and transformers, nothing of learning."""

from seekr.attention.change import measure_change
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.sensitivity import measure_sensitivity
from seekr.attention.tap import Tap

__all__ = ["Tap", "attention_distillation_loss", "measure_change", "measure_sensitivity"]
