"""Names of the hub where there is no network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from seekr.cli.main import main
from seekr.data.hub import _say_cache_is_used, _unreachable, hub_or_cache


@pytest.fixture(autouse=True)
def _asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for kept in (_unreachable, _say_cache_is_used):
        kept.cache_clear()
    yield
    for kept in (_unreachable, _say_cache_is_used):
        kept.cache_clear()


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request fails as it does without a network; waiting between attempts is what a test may not need."""

    class Client:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> Any:
                raise ConnectionError("Name or service not known")

            return fail

    def wait(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for another attempt")

    monkeypatch.setattr(huggingface_hub, "get_session", Client)
    monkeypatch.setattr(_http, "get_session", Client)
    monkeypatch.setattr(time, "sleep", wait)


@pytest.mark.parametrize(
    ("key", "said"),
    [("model", "'nobody/nothing' is no model folder and no model of the hub"), ("train", "task 'a', train")],
)
def test_unknown_name_without_a_network_is_told_at_once(
    key: str, said: str, unplugged: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model_folder: Path
) -> None:
    rows = tmp_path / "a.json"
    rows.write_text(json.dumps([{"prompt": "a", "answer": "b"}]))
    model, train = (tiny_model_folder, "nobody/nothing") if key == "train" else ("nobody/nothing", rows)
    config = {"model": str(model), "tasks": [{"name": "a", "train": str(train)}], "output_dir": str(tmp_path / "run")}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    assert main(["learn", str(tmp_path / "c.yaml")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert error.endswith("(https://huggingface.co cannot be reached: Name or service not known)")


def test_a_name_that_the_cache_answers_is_said_once(unplugged: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The notice came before it was known whether the cache has it, and so before an error that says the same."""
    for _ in range(2):
        with hub_or_cache():
            pass
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice.startswith(
        "seekr: https://huggingface.co cannot be reached: Name or service not known; what is in the"
    )


def test_hub_that_answers_is_left_online(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    class Client:
        def head(self, url: str, *, timeout: float) -> None:
            asked.append(url)

    monkeypatch.setattr(huggingface_hub, "get_session", Client)
    for _ in range(2):
        with hub_or_cache():
            pass
    assert asked == [constants.ENDPOINT]
    assert not constants.is_offline_mode()
    assert capsys.readouterr().err == ""
