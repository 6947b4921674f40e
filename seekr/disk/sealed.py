"""People's data at rest: encrypted with AES-256-GCM (NIST SP 800-38D) by a key of the environment.

A file says of itself whether it is encrypted, and is read either way; the key is in no file of a run.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from seekr.disk.files import user_path, write_atomically
from seekr.disk.regular import open_regular, read_bytes, regular
from seekr.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY, KEY_FILE = "SEEKR_KEY", "SEEKR_KEY_FILE"
TENSORS_MARK = "seekr AES-256-GCM"
"""Among the metadata of a safetensors file whose tensors are encrypted."""
_MARK = f"{TENSORS_MARK} "
_NONCE = 12
_LONGEST = 4096  # characters of a file with a key
_MAKE = "python -c 'import secrets; print(secrets.token_hex(32))' makes one"
_OWN = "no other one than it was encrypted with opens it"


def cipher(what: str, *, new: bool = True) -> AESGCM:
    """What encrypts and decrypts, `what` being what cannot be without it; `new`: any key will do.

    Raises InputError where there is no key.
    """
    which = _MAKE if new else _OWN
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise InputError(f'{what}: encryption needs a package: pip install "seekr-continual[encryption]"') from None
    text, where = os.environ.get(KEY), KEY
    if not text and (name := os.environ.get(KEY_FILE)):
        where = f"{KEY_FILE}={name}"
        try:
            text = _read_key(name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{what}: {where}: cannot be read ({error})") from None
    if not text:
        raise InputError(f"{what}: encryption needs a key; set {KEY}, or {KEY_FILE} to the file that holds it; {which}")
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{what}: {where}: a key is 64 hexadecimal digits; {which}")
    return AESGCM(key)


@cache
def _read_key(name: str) -> str:
    """What a file begins with, read once a process: it may be a FIFO, and a device may never end."""
    with user_path(name).open(encoding="utf-8") as file:
        return file.read(_LONGEST)


def write_text(path: Path, text: str, *, encrypted: bool) -> None:
    """Replaces a file atomically. Raises InputError where it is to be encrypted and there is no key."""
    if encrypted:
        text = f"{_MARK}{encrypt(text.encode(), path, path.name).hex()}\n"
    write_atomically(path, text)


def read_text(path: Path) -> str:
    """The text of a file, encrypted or not.

    Raises:
        InputError: where it is encrypted, and there is no key, or another one, or the file was changed.
        OSError, UnicodeDecodeError: where it cannot be read; OddFile, where it is no file.
    """
    text = read_bytes(path).decode()
    if not text.startswith(_MARK):
        return text
    try:
        content = bytes.fromhex(text.removeprefix(_MARK))
    except ValueError:
        content = b""
    return decrypt(content, path, path.name).decode()


def is_encrypted(path: Path) -> bool:
    """Whether a text that is there is encrypted."""
    with open_regular(path) as file:
        return file.read(len(_MARK)) == _MARK.encode()


def is_encrypted_tensors(path: Path) -> bool:
    """The same of a file of tensors. Raises SafetensorError or OSError where it is none."""
    with safe_open(regular(path), framework="np") as file:
        return TENSORS_MARK in (file.metadata() or {})


def encrypt(content: bytes, path: Path, name: str) -> bytes:
    """What `decrypt` makes the content of again, under this `name` alone; `path` is what messages are about."""
    nonce = os.urandom(_NONCE)
    return nonce + cipher(str(path)).encrypt(nonce, content, name.encode())


def decrypt(content: bytes, path: Path, name: str) -> bytes:
    """Raises InputError where there is no key, or another one, or the content or its name was changed."""
    key = cipher(str(path), new=False)
    from cryptography.exceptions import InvalidTag

    try:
        return key.decrypt(content[:_NONCE], content[_NONCE:], name.encode())
    except (InvalidTag, ValueError):
        raise InputError(f"{path}: cannot be decrypted: {KEY} is another key, or the file was changed") from None
