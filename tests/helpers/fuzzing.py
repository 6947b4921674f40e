"""What fuzzed tests share: values and bytes as no person would write them, and what may come of them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from seekr.errors import InputError

FEW, MANY = 100, 5000
_PATIENCE = 20
"""Seconds of this process's own, however busy the machine is, where most take a few thousandths."""


@contextlib.contextmanager
def one_line_or_an_answer() -> Iterator[None]:
    """Lets an InputError by whose message is a line of at most 600 characters; ends what hangs."""

    def hang(*_: object) -> None:
        raise TimeoutError(f"no answer after {_PATIENCE} seconds")

    before = signal.signal(signal.SIGVTALRM, hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
    try:
        yield
    except InputError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert len(f"seekr: error: {message}") <= 600
        message.encode()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


TEXT = st.text(max_size=12) | st.sampled_from(
    ["", " ", "\n", "\ud83d", "\0", "a" * 3000, "{{", "%", "</s>", "\u2028", "🙂"]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
KEYS = st.sampled_from(
    ["prompt", "answer", "completion", "references", "messages", "role", "content", "tool_calls", "tools", "weight"]
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXT, inner, max_size=3), max_leaves=8
)

PIECES = st.binary(max_size=6) | st.sampled_from(
    [
        b"",
        b"\xff",
        b"\0",
        b"\n",
        b'"',
        b"[",
        b"]",
        b"{",
        b",",
        b"\\ud800",
        b"\xef\xbb\xbf",
        b"[[" * 3000,
        b"1" * 5000,
        b"NaN",
    ]
)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 9), PIECES)


def edited(content: bytes, edits: Sequence[tuple[float, int, bytes]]) -> bytes:
    """With so many bytes from a place (a share of the length) on replaced by others, one edit after the other."""
    data = bytearray(content)
    for place, length, piece in edits:
        at = int(place * len(data))
        data[at : at + length] = piece
    return bytes(data)


def few(test: Callable[..., None], examples: int = FEW) -> Callable[..., None]:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(test)


def many(test: Callable[..., None], examples: int = MANY) -> Callable[..., None]:
    return pytest.mark.slow(few(test, examples))
