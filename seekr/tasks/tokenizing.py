"""Texts to token ids, and the characters that each token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seekr.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class Tokens:
    """The tokens of one text."""

    ids: np.ndarray  # int32 [tokens]
    starts: np.ndarray  # [tokens] first character
    ends: np.ndarray  # [tokens] one behind the last character; 0 for what the tokenizer added itself


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for a tokenizer that gives no character offsets or has no end token."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"tokenizer {type(tokenizer).__name__}: it gives no character offsets, which answers are found by; "
            "use the fast form (a folder with tokenizer.json)"
        )
    if tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has no eos_token, so no answer could end; name one in tokenizer_config.json")


def tokenize(texts: Sequence[str], is_chat: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    """Tokenize whole texts, without what the tokenizer adds behind them, and with one begin token at most.

    Args:
        is_chat: per text, whether a chat template has written its special tokens, so that the tokenizer adds none.

    Raises:
        InputError: if the tokenizer's offsets do not fit a text.
    """
    result: list[Tokens | None] = [None] * len(texts)
    for chat in (False, True):
        rows = [i for i, flag in enumerate(is_chat) if flag == chat]
        for i, tokens in zip(rows, _tokenize([texts[i] for i in rows], tokenizer, add_special=not chat), strict=True):
            result[i] = tokens
    done = [tokens for tokens in result if tokens is not None]
    short = [i for i, tokens in enumerate(done) if tokens.ends.max(initial=0) < len(texts[i].rstrip())]
    dropped = _dropped_characters("".join(texts[i] for i in short), tokenizer) if short else set()
    for i in short:
        done[i] = _without_characters(texts[i], dropped, done[i], tokenizer, add_special=not is_chat[i])
    return done


def _tokenize(texts: list[str], tokenizer: Any, *, add_special: bool) -> list[Tokens]:
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
    begin = tokenizer.bos_token_id
    result = []
    for row in range(len(texts)):
        ids = np.array(batch["input_ids"][row], dtype=np.int32)
        offsets = np.array(batch["offset_mapping"][row], dtype=np.int64).reshape(-1, 2)
        of_text = np.flatnonzero(np.array(batch["special_tokens_mask"][row]) == 0)
        stop = int(of_text[-1]) + 1 if len(of_text) else len(ids)
        start = int(stop > 1 and begin is not None and ids[0] == begin == ids[1])
        result.append(Tokens(ids[start:stop], offsets[start:stop, 0], offsets[start:stop, 1]))
    return result


def _dropped_characters(text: str, tokenizer: Any) -> set[str]:
    """The characters of which a tokenizer makes nothing: twice the same gives no more tokens than once."""
    candidates = sorted(set(text) - {" "})
    once, twice = (_tokenize([char * n for char in candidates], tokenizer, add_special=False) for n in (1, 2))
    return {char for char, a, b in zip(candidates, once, twice, strict=True) if a.ids.tolist() == b.ids.tolist()}


def _without_characters(text: str, dropped: set[str], tokens: Tokens, tokenizer: Any, *, add_special: bool) -> Tokens:
    """Right offsets where the tokenizer drops characters.

    A BPE vocabulary without an unknown token drops what it does not know, and counts every offset behind it too low.
    Without those characters the tokens are the same and the offsets right.
    """
    kept = np.array([i for i, char in enumerate(text) if char not in dropped] + [len(text)])
    (clean,) = _tokenize(["".join(text[i] for i in kept[:-1])], tokenizer, add_special=add_special)
    if clean.ids.tolist() != tokens.ids.tolist():
        raise InputError(
            f"tokenizer {type(tokenizer).__name__}: its offsets do not fit the text {text[:40]!r}..., so its answer "
            "cannot be found; use a tokenizer that drops no characters"
        )
    added = clean.ends == 0  # such as the begin token
    starts, ends = kept[clean.starts], kept[np.maximum(clean.ends - 1, 0)] + 1
    return Tokens(clean.ids, np.where(added, 0, starts), np.where(added, 0, ends))
