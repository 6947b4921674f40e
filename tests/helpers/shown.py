"""Tables as a terminal shows them, read back."""

from __future__ import annotations


def cells(text: str, *first: str) -> list[str]:
    """The filled cells of the first line that begins with the given ones; they hold no blanks."""
    for line in text.splitlines():
        words = line.translate(str.maketrans("│┃", "  ")).split()
        if tuple(words[: len(first)]) == first:
            return words
    raise AssertionError(f"no line begins with {first} in:\n{text}")


def column(text: str, place: int) -> list[str]:
    """The cell at `place` of each row of a table with lines around it."""
    return [line.split("│")[1 + place].strip() for line in text.splitlines() if line.startswith("│")]
