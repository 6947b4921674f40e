"""What every test may use: the shared material beside the checkout, where it is there."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers, real data and tiny real models; a test that needs it is skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared material in {SHARED}, which is not there")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
