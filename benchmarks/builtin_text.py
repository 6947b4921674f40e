"""The text that the built-in model is pre-trained on: patterns whose ends follow from their beginnings.

It holds the skills that the built-in tasks ask for (finding, copying, ordering, adding, capitals, mirroring)
and the symbols and words that they are written in, but neither their instructions nor their way of asking.
"""

import random
import string
from collections.abc import Callable

from seekr.builtin.tasks import TASKS

Pieces = list[tuple[str, bool]]  # a text in pieces, and whether each follows from what went before


def _letters(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.sample(string.ascii_lowercase, rng.randint(low, high)))


def _repeated(rng: random.Random) -> Pieces:
    """A run of symbols, and the same again: `g4k.g4k`."""
    run = "".join(rng.choices(string.ascii_letters + string.digits + "+[]:= ", k=rng.randint(3, 12)))
    return [(f"{run}.", False), (run, True)]


def _repeated_words(rng: random.Random) -> Pieces:
    """A run of words, and the same again: `sort/add.sort/add`."""
    run = "/".join(rng.sample(list(TASKS), rng.randint(2, 5)))
    return [(f"{run}.", False), (run, True)]


def _recalled(rng: random.Random) -> Pieces:
    """Letters with numbers, and the same in another order: `k42,d73;d>73,k>42`."""
    keys = rng.sample(string.ascii_lowercase, rng.randint(2, 5))
    numbers = {key: f"{rng.randrange(100):02d}" for key in keys}
    pieces: Pieces = [(",".join(key + numbers[key] for key in keys), False)]
    for place, key in enumerate(rng.sample(keys, len(keys))):
        pieces += [(f"{',' if place else ';'}{key}>", False), (numbers[key], True)]
    return pieces


def _enclosed(rng: random.Random) -> Pieces:
    """Letters, some of them in parentheses, and those once more: `kd(axq)zt/axq`."""
    letters = _letters(rng, 5, 9)
    start, end = sorted(rng.sample(range(len(letters) + 1), 2))
    marks = rng.choice(["()", "{}", "[]"])
    text = letters[:start] + marks[0] + letters[start:end] + marks[1] + letters[end:]
    return [(f"{text}/", False), (letters[start:end], True)]


def _ordered(rng: random.Random) -> Pieces:
    """Letters, and the same in the order of the alphabet: `kdax<adkx`."""
    letters = _letters(rng, 2, 7)
    return [(f"{letters}<", False), ("".join(sorted(letters)), True)]


def _alphabet(rng: random.Random) -> Pieces:
    """A stretch of the alphabet or of the numbers: `fghijk`."""
    start = rng.randrange(20)
    if rng.random() < 0.5:
        return [(string.ascii_lowercase[start], False), (string.ascii_lowercase[start + 1 : start + 6], True)]
    return [(f"{start}", False), ("".join(f",{number}" for number in range(start + 1, start + 6)), True)]


def _summed(rng: random.Random) -> Pieces:
    """Two numbers and their sum: `37+45~82`."""
    first, second = rng.randrange(100), rng.randrange(100)
    return [(f"{first}+{second}~", False), (str(first + second), True)]


def _capital(rng: random.Random) -> Pieces:
    """Letters and their capitals: `kdax^KDAX`."""
    letters = _letters(rng, 2, 8)
    return [(f"{letters}^", False), (letters.upper(), True)]


def _mirrored(rng: random.Random) -> Pieces:
    """Letters, and the same from the last to the first: `kdax|xadk`."""
    letters = _letters(rng, 2, 8)
    return [(f"{letters}|", False), (letters[::-1], True)]


SKILLS: dict[Callable[[random.Random], Pieces], int] = {
    _repeated: 2,
    _repeated_words: 1,
    _recalled: 5,
    _enclosed: 2,
    _ordered: 2,
    _alphabet: 1,
    _summed: 5,
    _capital: 1,
    _mirrored: 2,
}
"""The patterns, and how often each is drawn."""


def draw_text(rng: random.Random, length: int = 40) -> Pieces:
    """Patterns of any kind, a line each, until the text has at least `length` characters."""
    kinds, weights = list(SKILLS), list(SKILLS.values())
    pieces = rng.choices(kinds, weights)[0](rng)
    while sum(len(piece) for piece, _ in pieces) < length:
        pieces += [("\n", False), *rng.choices(kinds, weights)[0](rng)]
    return pieces
