"""Fields of TrainingArguments and LoraConfig: what is a number is no truth."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from peft import LoraConfig
from transformers import TrainingArguments

from seekr.config.training_arguments import _check_fields, check_lora, check_training
from seekr.errors import InputError


def fields_of(owner: type, kind: type) -> list[str]:
    """The fields of a class that take this kind of value, alone or beside others."""
    hints = get_type_hints(owner)
    return [
        item.name for item in fields(owner) if item.init and kind in (hints[item.name], *get_args(hints[item.name]))
    ]


@pytest.mark.parametrize("given", [True, False])
def test_true_was_read_as_one(given: bool) -> None:
    """`learning_rate: true` trained at a rate of 1.0."""
    for where, owner in (("training", TrainingArguments), ("lora", LoraConfig)):
        takes_truth = set(fields_of(owner, bool))
        for key in {*fields_of(owner, int), *fields_of(owner, float)} - takes_truth:
            with pytest.raises(InputError, match=f"{where}.{key}: must be a number, not {str(given).lower()}"):
                _check_fields(where, {key: given}, owner, set())
        for key in takes_truth:
            assert _check_fields(where, {key: given}, owner, set()) == {key: given}


def test_truths_where_numbers_go_are_refused_within_lists_too() -> None:
    with pytest.raises(InputError, match=r"lora\.layers_to_transform: must be a number"):
        check_lora({"layers_to_transform": [0, True]})
    with pytest.raises(InputError, match=r"training\.learning_rate: must be a number, not true"):
        check_training({"learning_rate": True})
    wanted: dict[str, Any] = {"learning_rate": "1e-4", "warmup_steps": 0.1, "num_train_epochs": 2}
    assert check_training(wanted) == {**wanted, "learning_rate": 1e-4}
