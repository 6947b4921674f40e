"""Every method, by its defaults: gradient checkpointing, two processes and sharded parameters change nothing."""

from __future__ import annotations

from pathlib import Path

import method_checks as checks
import pytest
from tiers import thorough

from seekr.methods import METHODS

QUICK = ("seekr", "olora")
"""A method of memory and teachers, and one with an adapter of its own."""


@pytest.mark.parametrize("method", [*QUICK, *thorough(*(name for name in METHODS if name not in QUICK))])
def test_gradient_checkpointing_changes_nothing(method: str, tmp_path: Path) -> None:
    assert checks.with_gradient_checkpointing(method, tmp_path) < checks.TOLERANCE


@pytest.mark.slow
def test_one_process_and_two_learn_the_same(tmp_path: Path) -> None:
    found = checks.on_two_processes("ddp", list(METHODS), tmp_path)
    assert set(found) == set(METHODS)
    assert {name: distance for name, distance in found.items() if not distance < checks.TOLERANCE} == {}


@pytest.mark.slow
def test_sharded_parameters_get_the_same_gradients(tmp_path: Path) -> None:
    """Where a method says that its parameters may be sharded; where it says no, it is refused in one line."""
    asked = [name for name, kind in METHODS.items() if not kind.joint]
    found = checks.on_two_processes("fsdp", asked, tmp_path)
    for name, distance in found.items():
        if METHODS[name].shards:
            assert isinstance(distance, float), f"{name}: {distance}"
            assert distance < checks.TOLERANCE, name
        else:
            assert isinstance(distance, str), name
