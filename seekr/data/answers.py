"""How an answer is read and what it is compared with: one definition for all that is generated and scored.

A model generates more than an answer: what its chat template writes in front of one, such as an empty reasoning or a
header, and after it. That is taken off what is generated and off what is right alike, wherever the template puts it;
what is left is what `decode` gives. So is a right answer: a tokenizer that lower-cases, composes or drops letters
could give no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from seekr.data.conversation import Conversation
from seekr.data.example import Example
from seekr.data.messages import REASONING, Message
from seekr.data.rendering import MARK, THOUGHT, Question, prompt_of, render_question, saying, shared_start, thinking
from seekr.data.tokenizing import Tokenizer, decode, tokenize
from seekr.errors import InputError

_SHOWN = 40  # characters of an answer in a line


@dataclass(frozen=True)
class AnswerForm:
    """What is written around an answer, as `decode` gives it with special tokens; white space makes no difference."""

    lead: str = ""  # what begins an answer; where it has a line break a reasoning may stand
    closings: tuple[str, ...] = ()  # what ends a reasoning
    trail: str = ""  # plain text that follows an answer
    mark: str = ""  # the token after that, such as an end of turn; it may end what is generated, and is then not there
    held: int = 0  # how often a right answer itself has what ends a reasoning

    @property
    def is_plain(self) -> bool:
        return not (self.lead or self.closings or self.trail or self.mark)

    def cut(self, text: str, *, ended: bool = True) -> str:
        """The answer of a text: what follows the end of a reasoning, or else the lead.

        A reasoning may name what ends it, so that is where it comes last, before those that a right answer has. What is
        not `ended` was stopped at its longest, maybe within the plain text after the answer.
        """
        ends = self.ends_of_reasoning(text)
        if len(ends) > self.held:
            text = text[ends[-1 - self.held] :]
        elif self._begin and (found := self._begin.match(text)):
            text = text[found.end() :]
        answer = self._before_end(text)
        return self._before_begun_trail(text) if answer == text and not ended else answer

    def ends_of_reasoning(self, text: str) -> list[int]:
        """Where a reasoning could end in a text, up to what ends its turn."""
        for pattern in self._closing_patterns:
            if found := pattern.search(text):
                stop = found.end() + len(self._before_end(text[found.end() :]))
                return [found.end() for found in pattern.finditer(text, 0, stop)]
        return []

    def _before_end(self, text: str) -> str:
        found = self._end.search(text) if self._end else None
        return text[: found.start()] if found else text

    def _before_begun_trail(self, text: str) -> str:
        trail, gap = "".join(self.trail.split()), r"\s+" if self.trail[:1].isspace() else r"\s*"
        for size in range(len(trail) - 1, 0, -1):
            if found := re.search(rf"{gap}{_spaced(trail[:size])}\s*\Z", text):
                return text[: found.start()]
        return text

    @cached_property
    def _begin(self) -> re.Pattern[str] | None:
        lines = [_spaced(line) for line in self.lead.split("\n") if line.strip()]
        return re.compile(rf"\s*{'.*?'.join(lines)}\s*", re.DOTALL) if lines else None

    @cached_property
    def _closing_patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(rf"{_spaced(text)}\s*") for text in self.closings if text.strip()]

    @cached_property
    def _end(self) -> re.Pattern[str] | None:
        """Plain text may stand within an answer too, so it ends one only where nothing or the mark follows it."""
        mark = re.escape(self.mark)
        if self.trail.strip():
            return re.compile(
                rf"\s*{_spaced(self.trail)}\s*(?:{mark}|\Z)" if mark else rf"\s*{_spaced(self.trail)}\s*\Z"
            )
        return re.compile(rf"\s*{mark}") if mark else None


@dataclass(frozen=True)
class AnswerKey:
    """What an answer to a row is compared with, and how it is read."""

    references: list[str]
    form: AnswerForm = field(default_factory=AnswerForm)

    def read(self, ids: Sequence[int], tokenizer: Tokenizer, *, ended: bool = True) -> str:
        """The answer in what was generated, `ids` being the tokens before its end; not `ended` as of `cut`."""
        plain = decode(ids, tokenizer, special=False)
        if self.form.is_plain:
            return plain
        written = decode(ids, tokenizer, special=True)
        answer = self.form.cut(written, ended=ended)
        return plain if answer == written else _without_special(answer, tokenizer)


@dataclass(frozen=True)
class Asked:
    """What a model is asked with, and what its answer is compared with."""

    ids: np.ndarray  # int32 [tokens]
    key: AnswerKey
    notes: tuple[str, ...] = ()
    cut: bool = False  # the prompt lost tokens to make room for an answer


def ask_all(examples: Sequence[Example], tokenizer: Tokenizer) -> list[Asked]:
    """Questions and keys of examples, uncut. Raises InputError as `rendering.render`."""
    questions, reasonings = [], []
    for example in examples:
        talk = Conversation(example, tokenizer) if example.messages else None  # its texts are freed at once
        questions.append(render_question(example, talk))
        reasonings.append(_reasoning(talk) if talk else _Reasoning())
    is_chat = [bool(example.messages) for example in examples]
    tokenized = tokenize([prompt_of(question) for question in questions], is_chat, tokenizer)
    taught = tokenize([question.answered for question in questions], is_chat, tokenizer)
    marks = [token for token in tokenizer.get_added_vocab() if token != tokenizer.unk_token]
    asked = []
    rows = zip(examples, questions, reasonings, tokenized, taught, strict=True)
    for example, question, reasoning, tokens, answered in rows:
        ids = tokens.ids[: first(tokens.ends > question.end)]
        stop = int(tokens.ends[: len(ids)].max(initial=0))
        before = answered.ids[: first(answered.ends > question.end)]
        found = [*question.notes]
        if not np.array_equal(ids, before):
            found.append(_JOINED)
        if tokenizer.eos_token_id in _generated(answered.ids[len(before) :].tolist(), tokenizer):
            found.append(_ENDED)
        asked.append(Asked(ids, _key(example, question, reasoning, stop, marks, tokenizer), tuple(found)))
    return asked


_JOINED = (
    "asked with other tokens than stand before the answer in training, as the tokenizer joins them with it; white "
    "space between them (separator) would keep them apart"
)
_ENDED = "the answer holds the end token, at which a model stops: it cannot be right as a whole"


def key_of(example: Example, tokenizer: Tokenizer) -> AnswerKey:
    """The key to the scored answer of one example."""
    return ask_all([example], tokenizer)[0].key


def compared_otherwise(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A line on right answers, as rows have them and as they are compared, where these differ."""
    changed = [(raw, right) for raw, right in pairs if raw != right]
    if not changed:
        return []
    raw, right = ((text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…") for text in changed[0])
    empty = sum(not right.strip() for raw, right in changed if raw.strip())
    lost = f"; of {empty} nothing is left, as the tokenizer knows none of their letters" if empty else ""
    return [
        f"{len(changed)} of {len(pairs)} right answers are compared as template and tokenizer write them, such as "
        f"{right!r} for {raw!r}{lost}"
    ]


def first(mask: np.ndarray) -> int:
    """The position of the first True; the length of the mask if there is none."""
    return int(mask.argmax()) if mask.any() else len(mask)


@dataclass(frozen=True)
class _Reasoning:
    """What a template writes between a reasoning and an answer, and after the one that this row has."""

    closings: tuple[str, ...] = ()
    after: str = ""


def _key(
    example: Example, question: Question, reasoning: _Reasoning, stop: int, marks: Sequence[str], tokenizer: Any
) -> AnswerKey:
    """`stop`: the characters of `question.text` that the prompt's tokens hold; what is between it and the answer, a
    tokenizer has joined with that. `marks`: tokens that are written as they are, and end what is plain text."""
    start, end = question.answer
    lead, trail = question.text[stop:start], question.text[end:]
    place, mark = min(((trail.index(mark), mark) for mark in marks if mark in trail), default=(len(trail), ""))
    form = AnswerForm(
        lead=_as_decoded("" if question.thought else lead, tokenizer),
        closings=tuple(_as_decoded(text, tokenizer) for text in reasoning.closings),
        trail=_as_decoded(trail[:place], tokenizer),
        mark=mark,
    )
    written = question.answered[stop:] if example.messages else example.answer
    if reasoning.closings:
        ends = form.ends_of_reasoning(_as_decoded(reasoning.after or written, tokenizer))
        form = replace(form, held=max(len(ends) - 1, 0))
    texts = [written if text == example.answer else text for text in example.references]
    pairs = zip(example.references, texts, strict=True)
    return AnswerKey([_compared(raw, text, form, tokenizer) for raw, text in pairs], form)


def _reasoning(talk: Conversation) -> _Reasoning:
    """The closings are that of an answer that is said, and of the scored one if it calls."""
    if not ("reasoning" in talk.template or "thinking" in talk.template):
        return _Reasoning()
    found = []
    mark = talk.unsaid(MARK)
    after = _after_thought(talk, saying(mark))
    if mark in after:
        found.append(after[: after.index(mark)])
    last = talk.example.messages[-1]
    scored = {key: value for key, value in last.items() if key not in REASONING}
    after = _after_thought(talk, scored) if "tool_calls" in scored or len(scored) < len(last) else ""
    if "tool_calls" in scored:
        asked = talk.asked(talk.example.trained[-1])
        unthought = talk.write((*talk.example.messages[:-1], scored)).removeprefix(asked)
        shared = shared_start(after[::-1], unthought[::-1])
        if not any(after.startswith(closing) for closing in found if closing.strip()):
            found.insert(0, after[: len(after) - shared])
    return _Reasoning(tuple(text for text in found if text.strip()), after if len(scored) < len(last) else "")


def _after_thought(talk: Conversation, message: Message) -> str:
    """What the template writes after a reasoning of this message; nothing where it leaves that out or refuses it."""
    thought = talk.unsaid(THOUGHT)
    try:
        found, _, after = talk.write((*talk.example.messages[:-1], thinking(message, thought))).rpartition(thought)
    except InputError:
        return ""
    return after if found else ""


def _compared(raw: str, text: str, form: AnswerForm, tokenizer: Any) -> str:
    """A right answer as a generated one would be read; `raw` where they differ in white space around it alone."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    said = AnswerKey([], form).read(_generated(ids, tokenizer), tokenizer)
    return raw if said.strip() == raw.strip() else said


def _generated(ids: Sequence[int], tokenizer: Any) -> Sequence[int]:
    """An answer as it is trained, up to its last end token."""
    ends = np.flatnonzero(np.asarray(ids) == tokenizer.eos_token_id)
    return ids[: ends[-1]] if len(ends) else ids


def _as_decoded(text: str, tokenizer: Any) -> str:
    """A text as it comes out of `decode`; nothing of white space alone."""
    if not text.strip():
        return ""
    return decode(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, tokenizer, special=True)


def _without_special(text: str, tokenizer: Any) -> str:
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text


def _spaced(text: str) -> str:
    """A pattern that finds a text whatever white space is in it."""
    return r"\s*".join(re.escape(char) for char in "".join(text.split()))
