"""What seekr says: the two ways in which it gives up, hints about what was meant, and texts that steer no terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from rapidfuzz import fuzz, process, utils

if TYPE_CHECKING:
    from pydantic import ValidationError


_LONGEST = 580
"""Characters of a message: paths, names and what libraries say may be of any length."""


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys in place of showing it: control characters of ASCII and Latin-1 but line breaks and tabs, and
marks that turn the direction of a text. Halves of characters cannot be written at all."""


def visible(text: str) -> str:
    """A text as a terminal may be given it: what would steer it is shown, as JSON writes it (`\\u001b`)."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show_text(text: str = "", *, end: str = "\n", file: TextIO | None = None) -> None:
    """A text on stdout, or in another `file`. Tables go by `seekr.progress.Terminal`."""
    print(visible(text), end=end, file=file, flush=True)


def say(text: str) -> None:
    """A line on stderr that says who says it, by `one_line`."""
    show_text(f"seekr: {one_line(text)}", file=sys.stderr)


def hand_over(data: str) -> None:
    """Data on stdout: as it is where a file or another program takes it."""
    sys.stdout.write(visible(data) if sys.stdout.isatty() else data)
    sys.stdout.flush()  # a disk that is full is seen here, and not at the end of Python


class InputError(ValueError):
    """What the user gave cannot be used (exit status 2).

    The message is one line: the file, line or key, what is wrong with it, and the mend.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class RunError(RuntimeError):
    """A run failed on its way (exit status 1), for example by a loss that is not finite. What was finished stays."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


SECRETS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}"
    r"|glpat-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})\b"
    r"|(?<=://)[^/\s:@]+(?::[^/\s@]+)?(?=@)|(?<=[?&])(?:token|key|sig|signature|access_token|api_key)=[^&\s]{8,}"
)
"""Tokens of Hugging Face, OpenAI, GitHub, AWS, GitLab and Slack, of JSON Web Tokens; who is named in an address."""


def one_line(message: str) -> str:
    """A message without line breaks, what steers a terminal, and secrets; of one that is too long the middle is left
    out."""
    message = SECRETS.sub("(…)", visible(message))
    if not message.isprintable():
        message = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    if len(message) <= _LONGEST:
        return message
    return f"{message[: _LONGEST * 2 // 3]} … {message[-_LONGEST // 3 + 3 :]}"


def said_by(error: BaseException) -> str:
    """What a library's error says, in a line of at most 200 characters; its kind where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says, where the others are a story; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the valid one that was probably meant, or what there is."""
    names = sorted(valid)
    best = process.extractOne(name, names, scorer=fuzz.ratio, processor=utils.default_process, score_cutoff=70)
    words = set(name.lower().split("_"))
    longer = [one for one in names if words < set(one.lower().split("_"))]  # `penalty` for `penalty_weight`
    if best or len(longer) == 1:
        return f"did you mean {best[0] if best else longer[0]!r}?"
    shown = [name for place, name in enumerate(names) if len(", ".join(names[: place + 1])) <= 240]
    more = len(names) - len(shown)
    return f"valid are {', '.join(shown)}" + (f" and {more} more" if more else "")


_KNOWN: set[str] = set()


def imported(module: str, name: str, *, what: str, form: str) -> Any:
    """What a user names by its module and its name there. Raises InputError: `what` it is, and the `form` it reads."""
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever a module of the user's raises
        raise InputError(f"{what} cannot be imported ({type(error).__name__}: {error}); it reads {form}") from None
    know(f"{module}.{name}")
    return found


def know(path: str) -> None:
    """Notes that who uses this process gave it the code of this `module.name`."""
    _KNOWN.add(path)


def is_known(path: str) -> bool:
    """Whether that was noted."""
    return path in _KNOWN


def reason(error: ValidationError) -> str:
    """What the first finding of a pydantic error says is wrong, to stand after the name of a key."""
    message = error.errors()[0]["msg"]
    return f"{message[0].lower()}{message[1:]}"


def kind_of(value: Any) -> str:
    """A value in words that fit into one line."""
    names = {type(None): "null", dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value)) or f"{type(value).__name__} {str(value)[:40]!r}"


def listed(names: Iterable[Any]) -> str:
    """Names that were given, in a line: odd ones quoted, long ones and long lists cut short."""
    shown = [name if name.isprintable() and name else repr(name) for name in map(str, names)]
    shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in shown]
    return some(shown, 10)


def some(names: Sequence[str], most: int) -> str:
    """The first names in a line, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
