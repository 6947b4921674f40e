"""A chat row as its template writes it: any number of its turns, asked for an answer or with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from seekr.data.example import Example
from seekr.data.messages import Message, turn_text
from seekr.data.tokenizing import Tokenizer
from seekr.disk.files import user_path
from seekr.disk.regular import read_bytes
from seekr.errors import InputError, first_line

_PARTS_AS_THEY_ARE = ("{'type': 'text'", '{"type": "text"')
"""How parts look that a template writes out instead of their text."""


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """How messages are handed to a template, in the points that templates do not agree on."""

    parts: bool = False  # a content is a list of parts, as for models of text and images
    text_arguments: bool = False  # the arguments of a call are JSON text
    empty_content: bool = False  # a turn that only calls has a content, an empty one


class Conversation:
    """The messages of an example and the template that writes them.

    Raises InputError, naming file and row, where the template refuses the messages, leaves out the question or reads no
    variable of a name that is given.
    """

    def __init__(self, example: Example, tokenizer: Tokenizer) -> None:
        self.example = example
        self.tokenizer: Any = tokenizer
        self._texts: dict[tuple[int, bool], str] = {}
        if not (example.chat.template or getattr(tokenizer, "chat_template", None)):
            raise InputError(
                f"{example.source}: chat rows need a tokenizer with a chat template, and this one has none; "
                "use an instruction-tuned model's tokenizer, say chat_template: FILE, or give rows of prompt and answer"
            )
        self.template = template = example.chat.template or str(tokenizer.chat_template)
        for name in example.chat.variables:
            if not re.search(rf"\b{re.escape(str(name))}\b", template):
                raise InputError(
                    f"{example.source}: chat_template_kwargs: the chat template reads no {str(name)[:40]!r}; mend the "
                    "name, or leave it out"
                )
        self.form = self._chosen_form()

    def asked(self, turn: int) -> str:
        """What the model reads when it is asked for the answer at the place `turn`."""
        return self._once(turn, ask=True)

    def answered(self, turn: int) -> str:
        """The text up to and with the answer at the place `turn`."""
        return self._once(turn + 1, ask=False)

    def write(self, turns: Sequence[Message], *, ask: bool = False) -> str:
        """Any turns, in the form that suits the template for the whole conversation; with `ask` one more is begun."""
        try:
            return self._write(turns, self.form, ask=ask)
        except Exception as error:  # a template is a program of its own, and may raise anything
            raise self._refused(error) from None

    def unsaid(self, word: str) -> str:
        """A word that neither the row nor its template has: this one, with as many more letters as it takes."""
        while word in self._said:
            word += "z"
        return word

    @cached_property
    def _said(self) -> str:
        return f"{self.example}{self.template}"

    @cached_property
    def left_out(self) -> list[str]:
        """The roles of turns that the template writes nothing of. Raises InputError where a question is one of them."""
        lacking = list(self._lacking(self.answered(len(self.example.messages) - 1)))
        for place in lacking:
            if self.example.messages[place]["role"] == "user":
                raise InputError(
                    f"{self.example.source}: the chat template leaves out the question in messages[{place}], "
                    f"{turn_text(self.example.messages[place])[:40]!r}; use another one (chat_template: FILE)"
                )
        return sorted({self.example.messages[place]["role"] for place in lacking if place not in self.example.trained})

    def _chosen_form(self) -> MessageFormat:
        """The first form that the template takes and in which it writes every turn; else the one that lacks least."""
        refusals: list[Exception] = []
        found: list[tuple[int, MessageFormat]] = []
        for form in self._forms():
            try:
                text = self._write(self.example.messages, form)
            except Exception as error:  # as above
                refusals.append(error)
                continue
            if form.parts and any(shown in text for shown in _PARTS_AS_THEY_ARE):
                continue  # it knows no parts, and writes their list
            lacking = len(list(self._lacking(text)))
            if not lacking:
                self._texts[len(self.example.messages), False] = text
                return form
            found.append((lacking, form))
        if not found:
            raise self._refused(refusals[0])
        return min(found, key=lambda pair: pair[0])[1]

    def _forms(self) -> Iterator[MessageFormat]:
        calls = any("tool_calls" in message for message in self.example.messages)
        silent = any("content" not in message for message in self.example.messages)
        for parts, text_arguments, empty_content in product((False, True), repeat=3):
            if (calls or not text_arguments) and (silent or not empty_content):
                yield MessageFormat(parts, text_arguments, empty_content)

    def _lacking(self, text: str) -> Iterator[int]:
        """The places of turns that a text lacks; earlier answers aside, whose thoughts templates leave out."""
        messages = self.example.messages
        for place, message in enumerate(messages):
            if (message["role"] != "assistant" or place == len(messages) - 1) and not stands_in(message, text):
                yield place

    def _once(self, turns: int, *, ask: bool) -> str:
        if (turns, ask) not in self._texts:
            self._texts[turns, ask] = self.write(self.example.messages[:turns], ask=ask)
        return self._texts[turns, ask]

    def _write(self, turns: Sequence[Message], form: MessageFormat, *, ask: bool = False) -> str:
        chat = self.example.chat
        return str(
            self.tokenizer.apply_chat_template(
                [_formed(message, form) for message in turns],
                tools=self.example.tools,
                chat_template=chat.template,
                tokenize=False,
                add_generation_prompt=ask,
                **chat.variables,
            )
        )

    def _refused(self, error: BaseException) -> InputError:
        return InputError(f"{self.example.source}: the chat template refuses these messages: {first_line(error)}")


def stands_in(message: Message, text: str) -> bool:
    """Whether a text has a turn's content, white space aside, and the names of what it calls."""
    content = message.get("content", "").strip()
    names = [call["function"]["name"] for call in message.get("tool_calls", ())]
    return all(name in text for name in names) and (content in text or _squeezed(content) in _squeezed(text))


def use_template(tokenizer: Any, path: str | Path | None) -> Any:
    """The tokenizer, with the template of a file in place of its own if one is given. Raises InputError."""
    if path is not None:
        tokenizer.chat_template = read_template(path)
    return tokenizer


def read_template(path: str | Path) -> str:
    """The text of a chat template's file. Raises InputError."""
    file = user_path(path)
    try:
        text = read_bytes(file).decode()
    except FileNotFoundError:
        raise InputError(f"chat_template: {file}: no such file; give the file of a Jinja template") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template: {file}: cannot be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise InputError(f"chat_template: {file}: the file is empty")
    return text


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _formed(message: Message, form: MessageFormat) -> Message:
    message = dict(message)
    if form.empty_content:
        message.setdefault("content", "")
    if form.parts and "content" in message:
        message["content"] = [{"type": "text", "text": message["content"]}]
    if form.text_arguments and "tool_calls" in message:
        message["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
    return message


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
