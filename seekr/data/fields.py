"""What became of what rows hold besides prompt and answer, or role and content: used, or ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from seekr.data.conversation import Conversation
from seekr.data.example import Example
from seekr.data.messages import REASONING, Message
from seekr.data.tokenizing import Tokenizer
from seekr.errors import InputError, listed

_TRIED = 20  # rows by which it is seen whether a template reads a key


def field_notes(examples: Sequence[Example], tokenizer: Tokenizer | None) -> list[str]:
    """A line each of the keys that are used and of those that are ignored; nothing where rows hold no others.

    A key of a chat row is used if its template writes another text without it. Without a tokenizer only the keys are
    known that nothing reads.
    """
    unread = sorted({key for example in examples for key in example.unread})
    used: list[str] = []
    if tokenizer is not None:
        for key, holding in _chat_fields(examples).items():
            (used if any(_is_read(example, key, tokenizer) for example in holding) else unread).append(key)
    padded = sum(example.padded for example in examples)
    lines = [
        (f"used of the rows, besides the text itself: {listed(used)}", used),
        (f"ignored of the rows, as nothing reads it: {listed(unread)}", unread),
        (f"{padded} of {len(examples)} rows: nulls in tools and calls are left out, as a table's padding", padded),
    ]
    return [line for line, is_so in lines if is_so]


def scored_turns_note(examples: Sequence[Example]) -> list[str]:
    """A line where test rows hold several turns that could be scored: generated, and compared, is the last."""
    several = sum(len(example.trained) > 1 for example in examples)
    said = "rows hold several assistant turns: the last alone is asked and scored (metric: likelihood counts all)"
    return [f"{several} of {len(examples)} {said}"] if several else []


def _chat_fields(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Keys besides role and content → the first examples that have them; "tools" is one of the row itself."""
    found: dict[str, list[Example]] = {}
    for example in examples:
        keys = {key for message in example.messages for key in message} - {"role", "content", *REASONING[1:]}
        for key in [*sorted(keys), *(["tools"] if example.tools else [])]:
            if len(found.setdefault(key, [])) < _TRIED:
                found[key].append(example)
    return found


def _is_read(example: Example, key: str, tokenizer: Any) -> bool:
    """Whether a conversation up to a turn that has a key is another text without it."""
    for part in _parts(example, key):
        try:
            without = Conversation(_without(part, key), tokenizer).answered(len(part.messages) - 1)
            if Conversation(part, tokenizer).answered(len(part.messages) - 1) != without:
                return True
        except InputError:  # without it the template refuses the messages
            return True
    return False


def _parts(example: Example, key: str) -> Iterator[Example]:
    if key == "tools":
        yield example
    for turn, message in enumerate(example.messages):
        if key in message:
            yield replace(example, messages=example.messages[: turn + 1], trained=(turn,))


def _without(example: Example, key: str) -> Example:
    if key == "tools":
        return replace(example, tools=None)
    names = REASONING if key in REASONING else (key,)
    messages: list[Message] = [
        {name: value for name, value in message.items() if name not in names} for message in example.messages
    ]
    return replace(example, messages=tuple(messages))
