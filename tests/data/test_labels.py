"""Which tokens are trained, against an independent count, for every make of tokenizer and rows as odd as they come."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from makes import MAKES
from tokenizers import Tokenizer, models, pre_tokenizers
from toy_tokenizers import SPECIAL, wrap
from transformers import PreTrainedTokenizerFast

from seekr.data.encoding import EncodingSummary, encode, encode_all
from seekr.data.example import parse_row
from seekr.data.rendering import render
from seekr.errors import InputError

ODD = [
    *" \n\t\r", "\r\n", "\xa0", "\u2028", "\u3000", "\u200b", "\u200d", "\xad", "\0", "\x7f", "\ufeff", "\ufffd",
    "\u0301", "e\u0301", "\u0323", "é", "ß", "ẞ", "İ", "ﬁ", "½", "ﷺ", "①", "ｆ", "한", "\u1112\u1161\u11ab", "語",
    "😀", "👩‍👩‍👧", "🇩🇪", "á̧", "▁", "Ġ", "##", "</w>", "<unk>", "</s>", "<s>", "<|im_end|>", "[INST]",
    "...", "0228", "7½", "don't", "::", "To", "Tom", "the", "ab", "le chat", "(A)", "\\n", "{}", "ǅ", "ﬀ", "Å", "K",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(ODD) | st.text(alphabet="abthe T.", max_size=6), max_size=8).map("".join)
PROMPT = TEXT.filter(lambda text: text.strip())


@cache
def tokenizer_of(make: str) -> tuple[PreTrainedTokenizerFast, set[str]]:
    tokenizer = MAKES[make].build()
    return tokenizer, {piece for piece in tokenizer.get_vocab() if len(piece) == 1}


def counted(make: str, prompt: str, answer: str, separator: str) -> tuple[list[int], list[bool]]:
    """Token ids of a row and which of them are trained, by the make's definition alone."""
    tokenizer, known = tokenizer_of(make)
    ((_, rendered),) = render(parse_row({"prompt": prompt, "answer": answer}, "", separator=separator), tokenizer)
    ((begin, end),) = rendered.spans
    ids = list(tokenizer(rendered.text, add_special_tokens=False).input_ids)
    ranges = MAKES[make].ranges(rendered.text, tokenizer.convert_ids_to_tokens(ids), known)
    trained = [any(start < end and stop > begin for start, stop in of_token) for of_token in ranges]
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    if first in tokenizer("").input_ids:
        ids, trained = [first, *ids], [False, *trained]
    if ids[:2] == [first, first]:  # one begin token at most
        ids, trained = ids[1:], trained[1:]
    if not (ids and ids[-1] == last and trained[-1]):
        ids, trained = [*ids, last], [*trained, True]
    return ids, trained


def marks_change_places(prompt: str, answer: str) -> bool:
    """Whether Unicode puts a mark that the answer begins with before one that the prompt ends with: "Å" and U+0323
    are "Ạ" and U+030A, and no token is of one of the two alone."""
    decomposed = unicodedata.normalize("NFD", prompt)
    return unicodedata.normalize("NFD", prompt + answer) != decomposed + unicodedata.normalize("NFD", answer)


def check(make: str, prompt: str, answer: str, separator: str) -> None:
    assume(not marks_change_places(prompt + separator, answer))
    ids, trained = counted(make, prompt, answer, separator)
    tokenizer, _ = tokenizer_of(make)
    row = encode(parse_row({"prompt": prompt, "answer": answer}, "row 1", separator=separator), tokenizer, None)
    assert row.input_ids.tolist() == ids
    assert (row.labels != -100).tolist() == trained, tokenizer.convert_ids_to_tokens(ids)
    assert np.array_equal(row.labels[row.labels != -100], row.input_ids[row.labels != -100])


ROWS = {"prompt": PROMPT, "answer": TEXT, "separator": st.sampled_from(["", " "])}


@given(make=st.sampled_from(sorted(MAKES)), **ROWS)
@settings(max_examples=300, deadline=None)
def test_labels_are_those_of_an_independent_count(make: str, prompt: str, answer: str, separator: str) -> None:
    check(make, prompt, answer, separator)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKES)
@given(**ROWS)
@settings(max_examples=5000, deadline=None)
def test_labels_are_those_of_an_independent_count_many_more(
    make: str, prompt: str, answer: str, separator: str
) -> None:
    check(make, prompt, answer, separator)


DROPPED = [
    ("drops_letters", "Où est Tom?\n", "Tom\n\n", ["Tom"]),
    ("drops_letters", "Où est Tom?\n", "Tom sleeps.\n\n\n", ["Tom", "▁", *"sleeps."]),
    ("drops_letters_in_words", "Où est naïve:", "aéb", ["ab"]),
    ("drops_bytes", "the caf\xe8:", "the", ["the"]),
]


@pytest.mark.parametrize(("make", "prompt", "answer", "pieces"), DROPPED)
def test_an_answer_behind_dropped_letters_loses_no_token(
    make: str, prompt: str, answer: str, pieces: list[str]
) -> None:
    """Offsets behind a dropped letter are too low: a token was left out, or letters of the prompt were trained."""
    tokenizer, _ = tokenizer_of(make)
    row = encode(parse_row({"prompt": prompt, "answer": answer}, "", separator=""), tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(row.labels[row.labels != -100].tolist()) == [*pieces, "</s>"]


def test_answers_that_leave_no_token_are_told() -> None:
    tokenizer, _ = tokenizer_of("drops_letters_in_words")
    examples = [parse_row({"prompt": "say:", "answer": answer}, "", separator="") for answer in ("語", "", "a語", "é ")]
    summary = EncodingSummary.of(encode_all(examples, tokenizer, None))
    assert json.loads(json.dumps(asdict(summary))) == asdict(summary)  # a finished stage keeps it
    assert (summary.empty_answers, summary.unread_answers) == (1, 1)  # of the last one the space is left
    assert any("1 of 4 answers hold nothing that the tokenizer knows" in line for line in summary.warnings())


def test_a_word_that_is_a_token_as_a_whole_keeps_its_unknown_letters() -> None:
    pieces = [*SPECIAL, *"abcdt", "aéb"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = wrap(backend)
    row = encode(parse_row({"prompt": "é aéb", "answer": "aéb éd"}, ""), tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(row.labels[row.labels != -100].tolist()) == ["aéb", "d", "</s>"]


def test_where_dropped_letters_leave_no_trace_the_row_is_refused_with_a_mend() -> None:
    """Ends of words are marked, and whether a letter is dropped depends on where it stands."""
    pieces = [*SPECIAL, "a", "b", "b</w>", "a</w>", "c</w>"]
    tokenizer = wrap(Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], end_of_word_suffix="</w>")))
    with pytest.raises(InputError, match=r"it drops characters that it does not know.*take such characters out"):
        encode(parse_row({"prompt": "ab", "answer": "ac"}, "", separator=""), tokenizer, None)
