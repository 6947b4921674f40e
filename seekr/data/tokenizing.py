"""Texts to token ids, and the characters that each token stands for."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seekr.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any  # transformers takes seconds to import, and rows are read without it


@dataclass(slots=True)
class Tokens:
    """The tokens of one text."""

    ids: np.ndarray  # int32 [tokens]
    starts: np.ndarray  # [tokens] first character
    ends: np.ndarray  # [tokens] one past the last character; 0 for what the tokenizer added itself


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise InputError for a tokenizer that gives no character offsets or has no end token."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"tokenizer {type(tokenizer).__name__}: it gives no character offsets, which answers are found by; "
            "use the fast form (a folder with tokenizer.json)"
        )
    if tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has no eos_token, so no answer could end; name one in tokenizer_config.json")


def decode(ids: Any, tokenizer: Any, *, special: bool) -> str:
    """The text of token ids as the tokenizer writes them, with its special tokens or without."""
    return str(tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def tokenize(texts: Sequence[str], is_chat: Sequence[bool], tokenizer: Tokenizer) -> list[Tokens]:
    """Tokenize whole texts, without what the tokenizer adds after them, and with one begin token at most.

    Args:
        is_chat: per text, whether a chat template has written its special tokens, so that the tokenizer adds none.

    Raises:
        InputError: if the tokenizer drops characters in a way that leaves no offsets.
    """
    tracing = _tracing(tokenizer)
    result: list[Tokens | None] = [None] * len(texts)
    for chat in (False, True):
        rows = [i for i, flag in enumerate(is_chat) if flag == chat]
        found = _tokenize([texts[i] for i in rows], tokenizer, tracing, add_special=not chat)
        for i, tokens in zip(rows, found, strict=True):
            result[i] = tokens
    return [tokens for tokens in result if tokens is not None]


def _tokenize(texts: list[str], tokenizer: Any, tracing: Any, *, add_special: bool) -> list[Tokens]:
    if not texts:
        return []
    batch = tokenizer(
        texts,
        add_special_tokens=add_special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        verbose=False,  # no warning of rows that are too long: they are cut and counted by the caller
    )
    offsets_of = batch["offset_mapping"]
    if tracing is not None:
        traced = tracing.encode_batch(texts, add_special_tokens=add_special)
        for text, ids, encoding in zip(texts, batch["input_ids"], traced, strict=True):
            if encoding.ids != ids:
                raise InputError(
                    f"tokenizer {type(tokenizer).__name__}: it drops characters that it does not know, and no answer "
                    f"can be placed in the text {text[:40]!r}; take such characters out, or use another tokenizer"
                )
        offsets_of = [encoding.offsets for encoding in traced]
    begin = tokenizer.bos_token_id
    result = []
    for row in range(len(texts)):
        ids = np.array(batch["input_ids"][row], dtype=np.int32)
        offsets = np.array(offsets_of[row], dtype=np.int64).reshape(-1, 2)
        of_text = np.flatnonzero(np.array(batch["special_tokens_mask"][row]) == 0)
        stop = int(of_text[-1]) + 1 if len(of_text) else len(ids)
        start = int(stop > 1 and begin is not None and ids[0] == begin == ids[1])
        tokens = Tokens(ids[start:stop], offsets[start:stop, 0], offsets[start:stop, 1])
        result.append(_with_marks(tokens, texts[row], tokenizer))
    return result


def _with_marks(tokens: Tokens, text: str, tokenizer: Any) -> Tokens:
    """Tokens of a letter that was composed with the marks after it stand for these too; the library counts none."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None or unicodedata.is_normalized("NFC", text) or normalizer.normalize_str("e\u0301") != "\xe9":
        return tokens
    uncovered = np.ones(len(text) + 1, dtype=bool)
    for start, end in zip(tokens.starts, tokens.ends, strict=True):
        uncovered[start:end] = False
    ends = tokens.ends.copy()
    for token in np.flatnonzero(tokens.ends > tokens.starts):
        while ends[token] < len(text) and uncovered[ends[token]] and _is_mark(text[ends[token]]):
            ends[token] += 1
    return Tokens(tokens.ids, tokens.starts, ends)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"  # vowels and finals of Hangul


def _tracing(tokenizer: Any) -> Any:
    """A tokenizer of the same tokens with right offsets, None where those of `tokenizer` itself are right.

    A BPE vocabulary without an unknown token drops signs that it does not hold, and the offsets after one are too low
    up to the end of its word. If they are taken out just before, once the text is split into words, every token stays
    the same, and the library keeps account of what was taken out.
    """
    import tokenizers
    from tokenizers import models, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    model = backend.model
    if not isinstance(model, models.BPE) or model.unk_token is not None:
        return None
    steps = [step.__getstate__() for step in (backend.normalizer, backend.pre_tokenizer) if step is not None]
    of_bytes = any(b'"ByteLevel"' in step for step in steps)
    if of_bytes and all(model.token_to_id(sign) is not None for sign in pre_tokenizers.ByteLevel.alphabet()):
        return None
    fallback = {byte for byte in range(256) if model.byte_fallback and model.token_to_id(f"<0x{byte:02X}>") is not None}
    if len(fallback) == 256:
        return None
    vocabulary = backend.get_vocab(with_added_tokens=False)
    dropping = pre_tokenizers.PreTokenizer.custom(_Dropping(vocabulary, fallback, whole_words=model.ignore_merges))
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.pre_tokenizer = pre_tokenizers.Sequence(
        [dropping] if backend.pre_tokenizer is None else [backend.pre_tokenizer, dropping]
    )
    return copy


class _Dropping:
    """Takes out of each word what the vocabulary makes nothing of, unless the word is a token as a whole."""

    def __init__(self, vocabulary: Mapping[str, int], fallback: set[int], *, whole_words: bool) -> None:
        self.vocabulary = vocabulary
        self.fallback = fallback
        self.whole_words = whole_words

    def pre_tokenize(self, text: Any) -> None:
        text.normalize(self._take_out)

    def _take_out(self, word: Any) -> None:
        if not (self.whole_words and word.normalized in self.vocabulary):
            word.filter(self._is_known)

    def _is_known(self, sign: str) -> bool:
        return sign in self.vocabulary or self.fallback >= set(sign.encode())
