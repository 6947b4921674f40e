"""Rows as token ids: which tokens are the answer, where they are cut, and what a model is asked with.

Every text is tokenized whole, and a token belongs to an answer if its characters overlap it: cutting the text
in two first would give other tokens at the seam than the model reads anywhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from seekr.data.answers import Asked, ask_all, first
from seekr.data.example import Example
from seekr.data.rendering import Rendered, render
from seekr.data.token_rows import IGNORED
from seekr.data.tokenizing import Tokenizer, Tokens, check_tokenizer, tokenize
from seekr.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NO_LIMIT = 10**9  # tokenizers that know no limit give a huge number instead


@dataclass(slots=True)
class Encoded:
    """One tokenized row."""

    input_ids: np.ndarray  # int32 [tokens]
    labels: np.ndarray  # int32 [tokens]: the token's own id, or -100 where it is no answer token
    prompt_cut: bool  # tokens of the prompt were left out, after its first one
    answer_cut: bool  # tokens of the answer, its end token among them, were left out at the end
    example: Example  # that it is of: the row of the file, or of a conversation the part up to one answer
    notes: tuple[str, ...] = ()

    @property
    def learned(self) -> int:
        """Tokens that are answer, its end among them."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, slots=True)
class Traced:
    """A row on its way from text to tokens: all `ids` and `labels`, and the places of those that are `kept`."""

    example: Example
    text: Rendered
    tokens: Tokens  # of the text: its tokens after the end are no part of the row, nor is an end that it lacks of them
    ids: np.ndarray
    labels: np.ndarray
    kept: np.ndarray

    def encoded(self) -> Encoded:
        """The row that is trained."""
        stop = int(self.kept[-1]) + 1
        return Encoded(
            self.ids[self.kept],
            self.labels[self.kept],
            prompt_cut=len(self.kept) < stop,
            answer_cut=stop < len(self.ids),
            example=self.example,
            notes=self.text.notes,
        )


@dataclass(frozen=True, slots=True)
class EncodingSummary:
    """What became of the rows of one split, for the run to tell."""

    rows: int
    cut_prompts: int
    cut_answers: int
    empty_answers: int
    tokens: int
    answer_tokens: int
    unread_answers: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> EncodingSummary:
        """Count over what `encode_all` made of the rows."""
        return cls(
            rows=len(encoded),
            cut_prompts=sum(row.prompt_cut for row in encoded),
            cut_answers=sum(row.answer_cut for row in encoded),
            empty_answers=sum(not row.example.answer.strip() for row in encoded),
            tokens=sum(len(row.input_ids) for row in encoded),
            answer_tokens=sum(row.learned for row in encoded),
            unread_answers=sum(
                bool(row.example.answer.strip()) and not row.answer_cut and row.learned < 2 for row in encoded
            ),
            notes=dict(Counter(note for row in encoded for note in row.notes)),
        )

    def warnings(self) -> list[str]:
        """One line for each thing that a person should know of; empty if there is nothing."""
        lines = {
            "prompts were cut from the left, after their first token, to fit max_length": self.cut_prompts,
            "answers were longer than max_length and lost their end": self.cut_answers,
            "answers are empty: the model learns to say nothing there": self.empty_answers,
            "answers hold nothing that the tokenizer knows: the model learns to say nothing there": self.unread_answers,
            **{f"rows: {note}": count for note, count in self.notes.items()},
        }
        return [f"{count} of {self.rows} {what}" for what, count in lines.items() if count]


def max_length_of(
    model_config: PretrainedConfig, tokenizer: Tokenizer | None, max_length: int | None, reserved: int = 0
) -> int:
    """Tokens of prompt and answer that a row may have: `max_length`, or what model and tokenizer allow.

    `reserved` positions of the model are taken by other tokens where `max_length` is None. Without a tokenizer (None)
    the model alone decides.

    Raises:
        InputError: if `max_length` is below 2 or above the model's positions, or nothing says a length.
    """
    positions = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if max_length is not None:
        if max_length < 2:
            raise InputError(f"max_length: {max_length} leaves no room for a prompt and an answer; give 2 or more")
        if positions is not None and max_length > positions:
            raise InputError(f"max_length: {max_length} is more than the {positions} positions of the model")
        return max_length
    if positions is not None:
        positions = max(positions - reserved, 2)
    known = None if tokenizer is None else tokenizer.model_max_length
    limits = [n for n in (positions, known) if n is not None and n < _NO_LIMIT]
    if not limits:
        raise InputError("max_length: neither the model's configuration nor its tokenizer names a length; give one")
    return min(limits)


def encode(example: Example, tokenizer: Tokenizer, max_length: int | None) -> Encoded:
    """`encode_all` of a row that gives one. Raises InputError for a conversation that needs several."""
    rows = encode_all([example], tokenizer, max_length)
    if len(rows) > 1:
        raise InputError(f"{example.source}: its chat template needs {len(rows)} texts to teach every answer")
    return rows[0]


def encode_all(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int | None) -> list[Encoded]:
    """Token ids and labels to train on, a row for each example; several for a conversation that no one text teaches
    (see `render`).

    The tokenizer adds its own special tokens to a prompt and its answer; a chat template has written them
    already. A row ends with the tokenizer's end token, labelled: where the text or the tokenizer brings none,
    it is appended; where a chat template writes more after it, that is left out. The end of turn that a
    template writes is labelled in every turn.

    A row longer than `max_length` (None = no limit) loses tokens from the left, after its first one, up to
    its last answer; if that alone is too long, it loses its end.

    Raises:
        InputError: for a tokenizer without character offsets or end token, or a chat row that its template
            cannot render.
    """
    return [row.encoded() for row in trace_all(examples, tokenizer, max_length)]


def trace_all(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int | None) -> Iterator[Traced]:
    """`encode_all`, with where each token comes from."""
    check_tokenizer(tokenizer)
    rendered = [pair for example in examples for pair in render(example, tokenizer)]
    texts = [text for _, text in rendered]
    tokenized = tokenize([text.text for text in texts], [text.is_chat for text in texts], tokenizer)
    end_token = int(tokenizer.eos_token_id)
    for (example, text), tokens in zip(rendered, tokenized, strict=True):
        ids, labels, answer_start = _labelled(text, tokens, end_token)
        yield Traced(example, text, tokens, ids, labels, _kept(len(ids), answer_start, max_length))


def encode_prompts(
    examples: Sequence[Example], tokenizer: Tokenizer, max_length: int | None, max_new_tokens: int
) -> list[Asked]:
    """Token ids to generate from: what stands before the (last) answer in training; and the keys to the answers.

    They are the same ids as in training as far as that can be known without the answer (see `prompt_of`).
    A prompt longer than `max_length - max_new_tokens` is cut from the left, after its first token.

    Raises:
        InputError: as `encode_all`, and if `max_new_tokens` leaves no room for a prompt.
    """
    check_tokenizer(tokenizer)
    room = None if max_length is None else max_length - max_new_tokens
    if room is not None and room < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in max_length {max_length}")
    asked = ask_all(examples, tokenizer)
    for example, question in zip(examples, asked, strict=True):
        if not len(question.ids):
            raise InputError(
                f"{example.source}: the tokenizer makes no token of this prompt, so nothing can be generated; "
                "take the row out, or use a tokenizer that knows its letters"
            )
    if room is None:
        return asked
    return [replace(question, ids=_cut_left(question.ids, room), cut=len(question.ids) > room) for question in asked]


def _kept(count: int, answer_start: int, max_length: int | None) -> np.ndarray:
    """The places, of `count` tokens, that a row of `max_length` keeps."""
    limit = count if max_length is None else max_length
    room = limit - min(answer_start, 1)  # for the answer, next to the prompt's first token
    return _cut_left(np.arange(count if count <= limit else min(count, answer_start + room)), limit)


def _labelled(row: Rendered, tokens: Tokens, end_token: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ids with the end token, their labels, and where the last answer begins."""
    ids = tokens.ids
    is_answer = np.zeros(len(ids), dtype=bool)
    for start, end in row.spans:
        # Where a tokenizer leaves white space out of its offsets a token may have no width: its end places it.
        inside = (tokens.ends > start) & ((tokens.starts < end) | (tokens.ends <= end))
        ends = np.flatnonzero(inside & (ids == end_token))
        if row.is_chat and len(ends):
            inside[ends[-1] + 1 :] = False  # nothing is generated after the end token
        is_answer |= inside
    answer_start = first(tokens.ends > row.spans[-1][0])
    stop = int(np.flatnonzero(is_answer)[-1]) + 1 if is_answer.any() else 0
    if row.is_chat and stop > answer_start and ids[stop - 1] == end_token:
        ids, is_answer = ids[:stop], is_answer[:stop]
    if not (len(ids) > answer_start and ids[-1] == end_token):
        ids, is_answer = np.append(ids, np.int32(end_token)), np.append(is_answer, True)
    return ids, np.where(is_answer, ids, IGNORED).astype(np.int32), answer_start


def _cut_left(values: np.ndarray, length: int) -> np.ndarray:
    """The first entry and the last `length - 1` of them, if there are more than `length`."""
    if len(values) <= length:
        return values
    return np.concatenate([values[:1], values[len(values) - length + 1 :]])
