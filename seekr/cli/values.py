"""What the words of a command line stand for: paths, counts, sizes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from seekr.disk.files import user_path
from seekr.errors import InputError


def path(text: str) -> Path:
    try:
        return user_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


def count(text: str) -> int:
    return natural(text, least=1)


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names such as sequential,derpp,seekr")
    return found


def above_zero(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


def points(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) or float(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return float(text)


def size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B?", text)
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 80GB, 80GiB or 16.5G")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))


def share_or_rows(text: str) -> float | int:
    value = float(text) if re.fullmatch(r"\d*\.\d+", text) else int(text) if text.isdecimal() else 0
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share such as 0.1 nor a number of rows such as 100")
    return value
