"""One row of a data set, as text: what is asked, what is to be answered, and where it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seekr.data.formats import known_form
from seekr.data.messages import (
    Answers,
    Message,
    check_template_kwargs,
    marks_of_others,
    parse_messages,
    parse_tools,
    transcript,
    turn_text,
    without_nulls,
)
from seekr.errors import InputError, kind_of, listed

_OF_A_CHAT = ("messages", "references", "tools", "chat_template_kwargs")


@dataclass(frozen=True, slots=True)
class Chat:
    """How chat rows are rendered: the text of a template in place of the tokenizer's own, and its variables."""

    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """One row. A chat row has `messages`, up to and with the assistant turn that is scored; any other row has none."""

    prompt_text: str  # as in the file; of a chat row, its transcript before the scored turn
    answer: str  # what the model learns to give, and what follows the prompt in training
    references: list[str]  # what counts as right when scored: the answer, unless the row names others
    source: str  # file and row, for messages to the user
    messages: tuple[Message, ...] = ()
    trained: tuple[int, ...] = ()  # the places of the assistant turns that are trained; the last one is scored
    tools: list[dict[str, Any]] | None = None  # what a chat row says the assistant may call
    chat: Chat = Chat()
    separator: str = " "  # between prompt and answer where neither brings white space
    unread: tuple[str, ...] = ()  # keys of the row that nothing reads
    padded: bool = False  # nulls were left out of its calls or tools


def parse_row(
    row: Any, source: str, *, answers: Answers = "all", separator: str = " ", chat: Chat | None = None
) -> Example:
    """Read one row: `messages`, or `prompt` with `answer` (or `completion`); or one of another form (`known_form`).

    An answer that is a list holds several right answers: the first one is trained, each counts when scored.
    `references` names the right answers apart from the trained one. `chat` says how a chat row is rendered.

    Raises:
        InputError: naming `source`, if something is missing, is no string, or the prompt is blank.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{source}: a row must be an object with keys, not {kind_of(row)}")
    given, taken = known_form(row, source)
    references = _strings(given["references"], "references", source) if given.get("references") is not None else None
    if given.get("messages") is not None:
        unread = _unread(row, {*taken, *_OF_A_CHAT})
        return _parse_chat(given, references, source, answers, chat or Chat(), unread)
    prompt = given.get("prompt")
    if prompt is None:
        raise InputError(f"{source}: 'prompt' is missing (or 'messages'); the row has {_keys(row)}")
    if not isinstance(prompt, str):
        raise InputError(f"{source}: 'prompt' must be a string, not {kind_of(prompt)}")
    if not prompt.strip():
        raise InputError(f"{source}: 'prompt' is blank; every row needs something to answer to")
    key = "completion" if given.get("answer") is None and given.get("completion") is not None else "answer"
    if given.get(key) is not None:
        right = _strings(given[key], key, source)
    elif references is not None:
        right = references
    else:
        raise InputError(f"{source}: 'answer' is missing (or 'completion'); the row has {_keys(row)}")
    unread = _unread(row, {*(taken or ("prompt", key)), "references"})
    return Example(prompt, right[0], references or right, source, separator=separator, unread=unread)


def _parse_chat(
    row: Mapping[str, Any],
    references: list[str] | None,
    source: str,
    answers: Answers,
    chat: Chat,
    unread: tuple[str, ...],
) -> Example:
    messages, trained, padded = parse_messages(row["messages"], source, answers)
    tools, padding = parse_tools(row.get("tools"), source)
    variables = without_nulls(row.get("chat_template_kwargs") or {})
    check_template_kwargs(variables, f"{source}: chat_template_kwargs")
    if variables:
        chat = Chat(chat.template, {**chat.variables, **variables})
    answer = turn_text(messages[-1])
    return Example(
        prompt_text=transcript(messages[:-1]),
        answer=answer,
        references=references or [answer],
        source=source,
        messages=messages,
        trained=trained,
        tools=tools,
        chat=chat,
        unread=(*unread, *marks_of_others(row["messages"])),
        padded=padded or padding,
    )


def _unread(row: Mapping[str, Any], read: Iterable[str]) -> tuple[str, ...]:
    known = set(read)
    return tuple(str(key) for key, value in row.items() if key not in known and value is not None)


def _strings(value: Any, key: str, source: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise InputError(f"{source}: {key!r} must be a string or a list of strings, not {kind_of(value)}")
    if not values:
        raise InputError(f'{source}: {key!r} is an empty list; an empty answer is written as ""')
    return list(values)


def _keys(row: Mapping[str, Any]) -> str:
    return listed([f"{key} (null)" if value is None else str(key) for key, value in row.items()]) or "no keys"
