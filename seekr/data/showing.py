"""One row as it is trained and asked, piece by piece: what `seekr tasks show` shows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from seekr.data.answers import AnswerKey
from seekr.data.conversation import Conversation
from seekr.data.encoding import IGNORED, Traced, encode_prompts, trace_all
from seekr.data.example import Example
from seekr.data.fields import field_notes
from seekr.data.rendering import render_question
from seekr.data.tokenizing import Tokenizer, decode

Kind = Literal["prompt", "trained", "end", "cut", "unread"]
"""Read; learned; learned as the end; left out for its length; after the end, or nothing to the tokenizer."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a row's text of one kind."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class ShownText:
    """A text to train on, in pieces; how many tokens it keeps and learns, and what the learned ones say, by answer."""

    pieces: list[Piece]
    tokens: int
    trained: int
    learned: list[str]


@dataclass(frozen=True)
class ShownRow:
    """A row: the texts that it is trained as, what is generated from, and what an answer is compared with."""

    source: str
    texts: list[ShownText]
    asked: str
    asked_tokens: int
    key: AnswerKey
    notes: list[str]


def show_row(example: Example, tokenizer: Tokenizer, max_length: int | None, max_new_tokens: int) -> ShownRow:
    """What becomes of one row. Raises InputError as `encode_all` and `encode_prompts`."""
    rows = list(trace_all([example], tokenizer, max_length))
    (asked,) = encode_prompts([example], tokenizer, max_length, max_new_tokens)
    question = render_question(example, Conversation(example, tokenizer) if example.messages else None)
    notes = dict.fromkeys(note for row in rows for note in (*row.text.notes, *asked.notes))
    return ShownRow(
        source=example.source,
        texts=[_shown(row, tokenizer) for row in rows],
        asked=decode(asked.ids, tokenizer, special=True) if asked.cut else question.text[: question.end],
        asked_tokens=len(asked.ids),
        key=asked.key,
        notes=[*notes, *field_notes([example], tokenizer)],
    )


def _shown(row: Traced, tokenizer: Tokenizer) -> ShownText:
    places = row.kept[row.labels[row.kept] != IGNORED]
    answers = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    learned = [decode(row.ids[answer], tokenizer, special=True) for answer in answers]
    return ShownText(_pieces(row, tokenizer), len(row.kept), len(places), learned)


def _pieces(row: Traced, tokenizer: Tokenizer) -> list[Piece]:
    """The whole text, each token with the white space that its offsets leave out, and an end token that is appended."""
    text, place = row.text.text, 0
    kept = set(row.kept.tolist())
    found: list[Piece] = []
    for index, (token, label) in enumerate(zip(row.ids.tolist(), row.labels.tolist(), strict=True)):
        stop = int(row.tokens.ends[index]) if index < len(row.tokens.ids) else 0
        if index == len(row.tokens.ids):  # an end token that is appended comes after all of the text
            found.append(Piece(text[place:], "unread"))
            place = len(text)
        written = text[place:stop] if stop else str(tokenizer.convert_ids_to_tokens(token))
        place = max(place, stop)
        end = label != IGNORED and token == tokenizer.eos_token_id
        kind: Kind = "cut" if index not in kept else "end" if end else "trained" if label != IGNORED else "prompt"
        found.append(Piece(written, kind))
    found.append(Piece(text[place:], "unread"))
    stretches = groupby(found, key=lambda piece: piece.kind)
    joined = [Piece("".join(piece.text for piece in stretch), kind) for kind, stretch in stretches]
    return [piece for piece in joined if piece.text]
