"""One row of a data set, as text: what is asked, what is to be answered, and where it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seekr.errors import InputError

Message = dict[str, Any]  # "role" and "content", and whatever else the chat template reads
Answers = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row. A chat row has `messages`, up to and with the assistant turn that is scored; any other row has none."""

    prompt_text: str  # as in the file; of a chat row, its transcript before the scored turn
    answer: str  # what the model learns to give, and what follows the prompt in training
    references: list[str]  # what counts as right when scored: the answer, unless the row names others
    source: str  # file and row, for messages to the user
    messages: tuple[Message, ...] = ()
    answers: Answers = "all"  # which assistant turns of a chat row are trained
    separator: str = " "  # between prompt and answer where neither brings white space


def parse_row(row: Any, source: str, *, answers: Answers = "all", separator: str = " ") -> Example:
    """Read one row: `messages`, or `prompt` with `answer` (or `completion`).

    An answer that is a list holds several right answers: the first one is trained, each counts when scored.
    `references` names the right answers apart from the trained one. Other keys are left alone.

    Raises:
        InputError: naming `source`, if something is missing, is no string, or the prompt is blank.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{source}: a row must be an object with keys, not {_kind(row)}")
    references = _strings(row["references"], "references", source) if row.get("references") is not None else None
    if row.get("messages") is not None:
        return _parse_chat(row["messages"], references, source, answers)
    prompt = row.get("prompt")
    if prompt is None:
        raise InputError(f"{source}: 'prompt' is missing (or 'messages'); the row has {_keys(row)}")
    if not isinstance(prompt, str):
        raise InputError(f"{source}: 'prompt' must be a string, not {_kind(prompt)}")
    if not prompt.strip():
        raise InputError(f"{source}: 'prompt' is blank; every row needs something to answer to")
    key = "completion" if row.get("answer") is None and row.get("completion") is not None else "answer"
    if row.get(key) is not None:
        right = _strings(row[key], key, source)
    elif references is not None:
        right = references
    else:
        raise InputError(f"{source}: 'answer' is missing (or 'completion'); the row has {_keys(row)}")
    return Example(prompt, right[0], references or right, source, separator=separator)


def _parse_chat(messages: Any, references: list[str] | None, source: str, answers: Answers) -> Example:
    if not isinstance(messages, list | tuple):
        raise InputError(f"{source}: 'messages' must be a list, not {_kind(messages)}")
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"{source}: messages[{position}] must be an object, not {_kind(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                given = "is missing" if message.get(key) is None else f"must be a string, not {_kind(message[key])}"
                raise InputError(f"{source}: {key!r} of messages[{position}] {given}")
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        raise InputError(f"{source}: 'messages' has no turn of role 'assistant', so there is no answer to learn")
    if last == 0:
        raise InputError(f"{source}: 'messages' has nothing before its answer; begin with a turn of role 'user'")
    # A file format with fixed columns fills keys that a message lacks with None: the template must not see
    # them.
    turns = tuple({k: v for k, v in message.items() if v is not None} for message in messages[: last + 1])
    answer = turns[-1]["content"]
    transcript = "\n".join(f"{message['role']}: {message['content']}" for message in turns[:-1])
    return Example(transcript, answer, references or [answer], source, turns, answers)


def _strings(value: Any, key: str, source: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise InputError(f"{source}: {key!r} must be a string or a list of strings, not {_kind(value)}")
    if not values:
        raise InputError(f'{source}: {key!r} is an empty list; an empty answer is written as ""')
    return list(values)


def _kind(value: Any) -> str:
    """A value in words that fit into one line."""
    names = {type(None): "null", dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value)) or f"{type(value).__name__} {str(value)[:40]!r}"


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(str(key) for key in row) or "no keys"
