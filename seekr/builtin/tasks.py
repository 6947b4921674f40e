"""Six small tasks whose answers stand in the prompt, made from a seed.

All six look alike, an instruction word, a colon, a few letters or digits and an equals sign, and ask for
different operations: a model that has just learned one of them tends to answer all of them that way. That is
what makes them a test of forgetting.
"""

import hashlib
import random
import string
from collections.abc import Callable
from typing import Literal

from seekr.errors import InputError

Split = Literal["train", "eval", "test"]

_TENTHS: dict[Split, range] = {"test": range(0, 1), "eval": range(1, 2), "train": range(2, 10)}


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.sample(string.ascii_lowercase, count))


def _lookup(rng: random.Random) -> tuple[str, str]:
    """The number that follows a letter."""
    keys = rng.sample(string.ascii_lowercase, 4)
    numbers = [f"{number:02d}" for number in rng.sample(range(100), 4)]
    asked = rng.randrange(4)
    pairs = " ".join(key + number for key, number in zip(keys, numbers, strict=True))
    return f"{pairs} {keys[asked]}", numbers[asked]


def _span(rng: random.Random) -> tuple[str, str]:
    """What stands between the brackets."""
    letters, length = _letters(rng, 8), rng.randint(2, 4)
    start = rng.randint(0, 8 - length)
    marked = letters[start : start + length]
    return f"{letters[:start]}[{marked}]{letters[start + length :]}", marked


def _sort(rng: random.Random) -> tuple[str, str]:
    """The letters in the order of the alphabet."""
    letters = _letters(rng, 5)
    return letters, "".join(sorted(letters))


def _add(rng: random.Random) -> tuple[str, str]:
    """The sum of two numbers of two digits."""
    first, second = rng.randint(10, 59), rng.randint(10, 59)
    return f"{first}+{second}", str(first + second)


def _upper(rng: random.Random) -> tuple[str, str]:
    """The letters as capitals."""
    letters = _letters(rng, 6)
    return letters, letters.upper()


def _reverse(rng: random.Random) -> tuple[str, str]:
    """The letters from the last to the first."""
    letters = _letters(rng, 6)
    return letters, letters[::-1]


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "lookup": _lookup,
    "span": _span,
    "sort": _sort,
    "add": _add,
    "upper": _upper,
    "reverse": _reverse,
}
"""The tasks in the order in which the demo learns them; each makes what is asked about, and the answer."""


def builtin_rows(task: str, split: Split, *, seed: int, count: int) -> list[dict[str, str]]:
    """`count` different rows of one split of a built-in task: a pure function of its arguments.

    A prompt belongs to one split by its own digest, so no prompt of one split occurs in another, of whatever
    seed. More rows of the same seed begin with the same rows.

    Raises:
        InputError: there is no such task or split, or it does not have that many different prompts.
    """
    if task not in TASKS:
        raise InputError(f"task {task!r} is not built in; the built-in tasks are {', '.join(TASKS)}")
    if split not in _TENTHS:
        raise InputError(f"split {split!r} of task {task!r} does not exist; the splits are train, eval and test")
    rng = random.Random(f"{task} {split} {seed}")
    rows: dict[str, dict[str, str]] = {}
    repeats = 0
    while len(rows) < count:
        asked, answer = TASKS[task](rng)
        prompt = f"{task}: {asked}="
        if _tenth(prompt) not in _TENTHS[split]:
            continue
        repeats = repeats + 1 if prompt in rows else 0
        if repeats > 1000:
            raise InputError(f"task {task!r} has no {count} different prompts in split {split!r}; ask for fewer rows")
        rows[prompt] = {"prompt": prompt, "answer": answer}
    return list(rows.values())


def _tenth(prompt: str) -> int:
    return hashlib.sha256(prompt.encode()).digest()[0] * 10 // 256
