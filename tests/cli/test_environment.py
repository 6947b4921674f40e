"""`seekr env`: what a report of a fault needs, and nothing that is nobody's business."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seekr.cli.environment import facts
from seekr.cli.main import main


def test_it_prints_what_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert lines == [f"{name}: {value}" for name, value in found.items()]
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["python"].startswith(platform.python_version())
    assert "CPU with" in found["devices"]


def test_no_secret_host_name_or_path_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "SEEKR_KEY",
        "SEEKR_KEY_FILE",
        "HF_HOME",
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, f"{os.sep}secret-of-{name}")
    monkeypatch.setenv("SEEKR_DIVERGENCE", "torch")
    text = "\n".join(map(str, facts()))
    assert "secret-of" not in text
    assert "('SEEKR_DIVERGENCE', 'torch')" in text
    for private in (platform.node(), str(Path.home()), sys.prefix, str(Path.cwd())):
        assert private not in text or len(private) < 4


def test_a_torch_that_does_not_load_is_reported_after_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a machine is what reports are written about."""
    monkeypatch.setitem(sys.modules, "torch", None)
    found = dict(facts())
    assert found["devices"] == "unknown, since torch cannot be imported (ModuleNotFoundError)"
    assert found["transformers"] != "not installed"


def test_every_cuda_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    devices = dict(facts())["devices"]
    assert all(f"cuda:{place} Card, 80 GiB, compute capability 9.0" in devices for place in (0, 1))
