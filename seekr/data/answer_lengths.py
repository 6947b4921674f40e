"""How many tokens right answers take, and how many may be generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seekr.data.answers import key_of
from seekr.data.encoding import IGNORED, Encoded, encode, encode_all
from seekr.data.example import Example
from seekr.data.tokenizing import Tokenizer


@dataclass(frozen=True)
class LongAnswers:
    """Rows of which no right answer fits into `allowed` tokens, of how many, and the tokens of the longest of those;
    `max_length` = what prompt and answer have together."""

    count: int
    rows: int
    allowed: int
    longest: int
    max_length: int | None = None

    def __str__(self) -> str:
        fits = self.max_length is None or self.longest + 1 < self.max_length
        longer = "" if fits else f"a max_length above {self.max_length}, with room for the prompt too, and "
        return (
            f"{self.count} of {self.rows} test answers take more than the {self.allowed} tokens of max_new_tokens and "
            f"cannot be right (the longest takes {self.longest}); set {longer}max_new_tokens: {self.longest + 1}, or "
            "null for as many as they need"
        )


def long_answers(
    examples: Sequence[Example], tokenizer: Tokenizer, allowed: int, max_length: int | None = None
) -> LongAnswers | None:
    """The rows of which no reference fits; None where there are none. Raises InputError as `encode_all`."""
    # A byte is a token at most, but for compatibility letters that are written out; a template writes more.
    doubtful = [
        row for row in examples if row.messages or min(len(text.encode()) for text in row.references) + 8 > allowed
    ]
    lengths = reference_lengths(doubtful, tokenizer)
    doubtful = [row for row, found in zip(doubtful, lengths, strict=True) if min(found) > allowed]
    least = [min(_least(_answered(row, text), tokenizer) for text in row.references) for row in doubtful]
    long = [length for length in least if length > allowed]
    return LongAnswers(len(long), len(examples), allowed, max(long), max_length) if long else None


def _least(row: Example, tokenizer: Tokenizer) -> int:
    """Tokens with which an answer is right, were a model to stop after them: without what is taken off after it."""
    key = key_of(row, tokenizer)
    (right,), form = key.references, key.form
    if not right.strip():
        return 0
    ids = _generated(encode(row, tokenizer, None), tokenizer)
    trailing = len(tokenizer(form.trail + form.mark, add_special_tokens=False).input_ids)
    shorter = range(max(len(ids) - trailing - _JOINED, 0), len(ids))
    return next((count for count in shorter if key.read(ids[:count], tokenizer).strip() == right.strip()), len(ids))


_JOINED = 2  # tokens by which what follows an answer may be longer than by itself


def enough_tokens(examples: Sequence[Example], tokenizer: Tokenizer) -> int:
    """What `max_new_tokens: null` stands for: the longest reference, its end token, and a tenth more, at least 3."""
    longest = max((length for lengths in reference_lengths(examples, tokenizer) for length in lengths), default=0)
    return longest + 1 + max(3, longest // 10)


def reference_lengths(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens of each reference of each row that a model has to generate."""
    answered = [_answered(example, reference) for example in examples for reference in example.references]
    lengths = iter([len(_generated(row, tokenizer)) for row in encode_all(answered, tokenizer, None)])
    return [[next(lengths) for _ in example.references] for example in examples]


def _answered(example: Example, reference: str) -> Example:
    """The row with this scored answer, its one trained turn."""
    if not example.messages:
        return replace(example, answer=reference, references=[reference])
    turn = example.messages[-1]
    if reference != example.answer:
        turn = {key: value for key, value in turn.items() if key != "tool_calls"} | {"content": reference}
    last = len(example.messages) - 1
    messages = (*example.messages[:-1], turn)
    return replace(example, answer=reference, references=[reference], messages=messages, trained=(last,))


def _generated(row: Encoded, tokenizer: Tokenizer) -> list[int]:
    """Tokens up to the last one that says something: white space, and what ends a turn, need not be generated."""
    answer: list[int] = row.labels[row.labels != IGNORED].tolist()
    ends = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    while answer and (answer[-1] in ends or not str(tokenizer.decode(answer[-1:])).strip()):
        answer.pop()
    return answer
