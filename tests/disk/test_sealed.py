"""What is encrypted at rest: read back as it was with the key, and in no way without it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seekr.disk.sealed import read_text, write_text
from seekr.disk.tensors import Tensors, save_tensors
from seekr.errors import InputError

ONE, OTHER = "01" * 32, "02" * 32


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEKR_KEY", ONE)


@pytest.mark.parametrize("encrypted", [False, True])
def test_every_tensor_is_read_back(encrypted: bool, tmp_path: Path) -> None:
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    tensors = {f"{dtype}": (torch.randn(3, 5) * 9).to(dtype) for dtype in dtypes}
    tensors |= {"empty": torch.empty(0, 4), "scalar": torch.tensor(3.5)}
    save_tensors(tensors, tmp_path / "x.safetensors", encrypted=encrypted)
    file = Tensors(tmp_path / "x.safetensors")
    assert file.encrypted is encrypted
    assert set(file.keys()) == tensors.keys()
    for name, tensor in tensors.items():
        assert file.get_tensor(name).dtype == tensor.dtype
        assert torch.equal(file.get_tensor(name), tensor)
    assert torch.equal(file.get_slice("torch.int32")[1:3], tensors["torch.int32"][1:3])


def test_nothing_of_it_can_be_read_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = torch.arange(64, dtype=torch.int32)
    save_tensors({"0/a": secret}, tmp_path / "x.safetensors", encrypted=True)
    write_text(tmp_path / "x.jsonl", '{"prompt": "Jane Doe"}\n', encrypted=True)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert secret.numpy().tobytes()[:32] not in content
    assert b"Jane" not in (tmp_path / "x.jsonl").read_bytes()
    assert read_text(tmp_path / "x.jsonl") == '{"prompt": "Jane Doe"}\n'
    for key, told in ((OTHER, "another key"), ("abc", "64 hexadecimal digits"), ("", "encryption needs a key")):
        monkeypatch.setenv("SEEKR_KEY", key)
        for read in (
            lambda: Tensors(tmp_path / "x.safetensors").get_tensor("0/a"),
            lambda: read_text(tmp_path / "x.jsonl"),
        ):
            with pytest.raises(InputError, match=told):
                read()


def test_the_key_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "x", "text", encrypted=True)
    (tmp_path / "key").write_text(f"{ONE}\n")
    monkeypatch.setenv("SEEKR_KEY", "")  # as an unset variable of a job's settings
    monkeypatch.setenv("SEEKR_KEY_FILE", str(tmp_path / "key"))
    assert read_text(tmp_path / "x") == "text"
    monkeypatch.setenv("SEEKR_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"SEEKR_KEY_FILE=.*nowhere: cannot be read"):
        read_text(tmp_path / "x")


def test_the_file_of_the_key_may_be_a_fifo_and_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by review: a second look at `<(pass show key)` found nothing, and /dev/zero took all memory."""
    monkeypatch.delenv("SEEKR_KEY")
    os.mkfifo(tmp_path / "key")
    monkeypatch.setenv("SEEKR_KEY_FILE", str(tmp_path / "key"))
    writer = threading.Thread(target=lambda: (tmp_path / "key").write_text(ONE))
    writer.start()
    write_text(tmp_path / "x", "text", encrypted=True)
    writer.join()
    assert read_text(tmp_path / "x") == "text"
    monkeypatch.setenv("SEEKR_KEY_FILE", "/dev/zero")
    with pytest.raises(InputError, match="SEEKR_KEY_FILE=/dev/zero: a key is 64 hexadecimal digits"):
        read_text(tmp_path / "x")


def test_nobody_is_told_to_make_a_key_for_what_another_one_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by review: a new key opens nothing that is there."""
    write_text(tmp_path / "x", "text", encrypted=True)
    for key in ("", "abc"):
        monkeypatch.setenv("SEEKR_KEY", key)
        with pytest.raises(InputError, match="no other one than it was encrypted with opens it"):
            read_text(tmp_path / "x")
        with pytest.raises(InputError, match="makes one"):
            write_text(tmp_path / "y", "text", encrypted=True)


def test_the_same_content_is_never_the_same_bytes_and_a_change_is_found(tmp_path: Path) -> None:
    for name in "ab":
        save_tensors({"0/a": torch.zeros(9)}, tmp_path / name, encrypted=True)
    one, other = (load_file(tmp_path / name)["0/a"] for name in "ab")
    assert not torch.equal(one, other)
    content = bytearray((tmp_path / "a").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a").write_bytes(bytes(content))
    with pytest.raises(InputError, match="the file was changed"):
        Tensors(tmp_path / "a").get_tensor("0/a")


def test_a_tensor_does_not_answer_for_another(tmp_path: Path) -> None:
    """Its name is authenticated: rows of one kept sample cannot be given out as those of another."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    save_tensors({"0/a": torch.zeros(9), "1/a": torch.ones(9)}, tmp_path / "x", encrypted=True)
    with safe_open(tmp_path / "x", framework="pt") as file:
        there, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({"0/a": there["1/a"], "1/a": there["0/a"]}, tmp_path / "x", metadata=about)
    with pytest.raises(InputError, match="the file was changed"):
        Tensors(tmp_path / "x").get_tensor("0/a")
