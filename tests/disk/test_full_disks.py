"""A file that cannot be written to its end is one line that says where, whatever the library says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import BPE

from seekr.disk.full import naming, written_to
from seekr.disk.tensors import save_tensors

always_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
LINE = "place: a file could not be written to its end"


@always_full
@pytest.mark.parametrize("size", [10, 10_000_000])
def test_what_torch_says_of_a_full_disk_is_one_line(size: int) -> None:
    """Found by full disks: "basic_ios::clear" of a small checkpoint, "unexpected pos" of a large one."""
    with pytest.raises(OSError, match=LINE), written_to(Path("place")):
        torch.save(torch.zeros(size), "/dev/full")


@always_full
def test_what_tokenizers_says_of_a_full_disk_is_one_line() -> None:
    """Found by full disks: a bare Exception."""
    tokenizer = Tokenizer(BPE(vocab={str(i): i for i in range(9999)}, merges=[]))
    with pytest.raises(OSError, match=LINE), written_to(Path("place")):
        tokenizer.save("/dev/full")


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_safetensors_says_of_a_file_that_cannot_be_written_names_it(
    encrypted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found by full disks: "Error while serializing", and no name."""
    monkeypatch.setenv("SEEKR_KEY", "07" * 32)
    path = tmp_path / "gone" / "teacher.safetensors"
    with pytest.raises(OSError, match=f"{path}: a file could not be written"):
        save_tensors({"a": torch.zeros(100_000)}, path, encrypted=encrypted)


@always_full
def test_what_python_says_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """Found by full disks: "[Errno 28] No space left on device", and no name."""
    path = tmp_path / "scores.json"
    with pytest.raises(OSError, match=r"No space left on device.*scores\.json"), naming(path):
        Path("/dev/full").write_text("a")


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(RuntimeError), written_to(tmp_path):
        torch.load(tmp_path / "broken.pt")
    with pytest.raises(KeyError), written_to(tmp_path):
        raise KeyError("a")
    assert not issubclass(SafetensorError, OSError)
