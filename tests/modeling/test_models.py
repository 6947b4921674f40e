"""Models are read whole, whatever else is configured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers.integrations import deepspeed

from seekr.builtin import builtin_model
from seekr.modeling.loading import load_model


def test_a_model_is_read_whole_while_zero_3_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would cut it up as it is read, by all processes together, where one alone may read."""
    alive = SimpleNamespace(is_zero3=lambda: True)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: alive)
    assert deepspeed.is_deepspeed_zero3_enabled()
    model = load_model(str(builtin_model()), dtype="float32")
    assert all(parameter.numel() for parameter in model.parameters())
    assert deepspeed.is_deepspeed_zero3_enabled()
