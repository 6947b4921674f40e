"""Texts and tensors of people's data at rest: encrypted with AES-256-GCM (NIST SP 800-38D) by a key of the environment.

A file says of itself whether it is encrypted, and is read either way; the key is in no file of a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr.disk.files import user_path, write_atomically
from seekr.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from torch import Tensor

KEY, KEY_FILE = "SEEKR_KEY", "SEEKR_KEY_FILE"
_MARK = "seekr AES-256-GCM "
_ENCRYPTED = "seekr AES-256-GCM"
_NONCE = 12
_MAKE = "python -c 'import secrets; print(secrets.token_hex(32))' makes one"


def cipher(what: str) -> AESGCM:
    """What encrypts and decrypts, `what` being what cannot be without it. Raises InputError where there is no key."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise InputError(f'{what}: encryption needs a package: pip install "seekr-continual[encryption]"') from None
    text, where = os.environ.get(KEY), KEY
    if text is None and (name := os.environ.get(KEY_FILE)):
        where = f"{KEY_FILE}={name}"
        try:
            text = user_path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{what}: {where}: cannot be read ({error})") from None
    if not text:
        raise InputError(f"{what}: encryption needs a key; set {KEY}, or {KEY_FILE} to the file that holds it; {_MAKE}")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{what}: {where}: a key is 64 hexadecimal digits; {_MAKE}")
    return AESGCM(key)


def write_text(path: Path, text: str, *, encrypted: bool) -> None:
    """Replaces a file atomically. Raises InputError where it is to be encrypted and there is no key."""
    if encrypted:
        text = f"{_MARK}{_encrypt(text.encode(), path, path.name).hex()}\n"
    write_atomically(path, text)


def read_text(path: Path) -> str:
    """The text of a file, encrypted or not.

    Raises:
        InputError: where it is encrypted, and there is no key, or another one, or the file was changed.
        OSError, UnicodeDecodeError: where it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    if not text.startswith(_MARK):
        return text
    try:
        content = bytes.fromhex(text.removeprefix(_MARK))
    except ValueError:
        content = b""
    return _decrypt(content, path, path.name).decode()


def is_encrypted(path: Path) -> bool:
    """Whether a text that is there is encrypted."""
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, encrypted: bool) -> None:
    """Writes a safetensors file; where it is `encrypted`, the names of the tensors stay readable."""
    import torch  # not above: commands that read texts alone do without it
    from safetensors.torch import save, save_file

    if not encrypted:
        save_file(dict(tensors), path)
        return
    sealed = {name: _encrypt(save({"": tensor}), path, name) for name, tensor in tensors.items()}
    as_bytes = {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in sealed.items()}
    save_file(as_bytes, path, metadata={_ENCRYPTED: "1"})


class Tensors:
    """A safetensors file, encrypted or not, of which each tensor is read when it is asked for.

    Raises InputError as `read_text` does, and SafetensorError or OSError where it is no such file.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        self._file: Any = safe_open(path, framework="pt")
        self.encrypted = _ENCRYPTED in (self._file.metadata() or {})
        self._sliced: dict[str, Tensor] = {}

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def get_tensor(self, name: str) -> Tensor:
        from safetensors.torch import load

        stored: Tensor = self._file.get_tensor(name)
        return load(_decrypt(stored.numpy().tobytes(), self.path, name))[""] if self.encrypted else stored

    def get_slice(self, name: str) -> Any:
        """What `[start:stop]` reads a part of; one that is encrypted is decrypted once, as a whole."""
        if not self.encrypted:
            return self._file.get_slice(name)
        if name not in self._sliced:
            self._sliced[name] = self.get_tensor(name)
        return self._sliced[name]


def _encrypt(content: bytes, path: Path, name: str) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + cipher(str(path)).encrypt(nonce, content, name.encode())


def _decrypt(content: bytes, path: Path, name: str) -> bytes:
    key = cipher(str(path))
    from cryptography.exceptions import InvalidTag

    try:
        return key.decrypt(content[:_NONCE], content[_NONCE:], name.encode())
    except (InvalidTag, ValueError):
        raise InputError(f"{path}: cannot be decrypted: {KEY} is another key, or the file was changed") from None
