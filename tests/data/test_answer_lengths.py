"""Tokens that a right answer takes: what has to be generated, whoever wrote the prompt and its end."""

from __future__ import annotations

from typing import Any

import family_templates
import pytest
from makes import MAKES
from toy_tokenizers import CHATML, TOKENIZERS

from seekr.data.answer_lengths import enough_tokens, long_answers, reference_lengths
from seekr.data.answers import key_of
from seekr.data.encoding import encode
from seekr.data.example import Example, parse_row

ANSWERS = ["joy", "le chat sat.", "", "Ärger 😀", "7 legs,\nor 42", "ﬁn"]


@pytest.mark.parametrize("make", ["byte_level", "sentence_piece_bpe", "word_piece", "unigram_nfkc", "legacy_llama"])
def test_what_is_counted_is_what_is_trained_without_its_end(make: str) -> None:
    tokenizer = MAKES[make].build()
    row = parse_row({"prompt": "Say:", "answer": ANSWERS, "references": ANSWERS}, "")
    (lengths,) = reference_lengths([row], tokenizer)
    for answer, length in zip(ANSWERS, lengths, strict=True):
        alone = encode(parse_row({"prompt": "Say:", "answer": answer}, ""), tokenizer, None)
        trained = alone.labels[alone.labels != -100][:-1]
        assert length == (len(trained) if answer.strip() else 0)
        assert tokenizer.decode(trained[:length]).strip() == tokenizer.decode(trained).strip()


def test_a_chat_rows_references_are_its_last_turn() -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    tokenizer.chat_template = CHATML
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "joy"}] * 2
    row = parse_row({"messages": turns, "references": ["joy", "le chat"]}, "")
    (lengths,) = reference_lengths([row], tokenizer)
    assert lengths == [len(tokenizer(text, add_special_tokens=False).input_ids) for text in ("joy", "le chat")]


def test_the_least_that_one_row_needs() -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    rows = [parse_row({"prompt": "q", "answer": answer}, "") for answer in ("joy " * 20, ["joy " * 30, "joy"], "joy")]
    lengths = reference_lengths(rows, tokenizer)
    found = long_answers(rows, tokenizer, 4)
    assert found is not None
    assert (found.count, found.rows, found.longest) == (1, 3, lengths[0][0])
    assert long_answers(rows, tokenizer, lengths[0][0]) is None
    assert enough_tokens(rows, tokenizer) == max(map(max, lengths)) + 1 + max(3, max(map(max, lengths)) // 10)
    assert enough_tokens([], tokenizer) == 4


def test_answers_longer_than_max_length_were_advised_a_number_that_is_refused() -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    row = parse_row({"prompt": "q", "answer": "joy " * 20}, "")
    ((length,),) = reference_lengths([row], tokenizer)
    for room, said in ((length + 2, False), (length + 1, True)):
        found = long_answers([row], tokenizer, 4, room)
        assert (f"set a max_length above {room}, with room for the prompt too" in str(found)) == said
        assert f"max_new_tokens: {length + 1}, or null" in str(found)


def chat(answer: str, **more: str) -> Example:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer, **more}]
    return parse_row({"messages": turns}, "")


def learned(row: Example, tokenizer: Any) -> list[int]:
    labels = encode(row, tokenizer, None).labels
    return [label for label in labels.tolist() if label not in (-100, tokenizer.eos_token_id)]


BEHIND = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.content }}{% if m.role == 'assistant' %}"
    "{{ ' Thank you ever so much' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


@pytest.mark.parametrize("answer", ["joy", "Thank you", "le chat sat.", ""])
def test_text_behind_an_answer_was_counted_as_what_it_needs(answer: str) -> None:
    """An answer of three tokens could not be right in ten, as what the template writes behind it takes twenty."""
    tokenizer = family_templates.tokenizer_with(BEHIND)
    row = chat(answer)
    needed = len(tokenizer(answer, add_special_tokens=False).input_ids)
    for allowed in range(1, needed):
        found = long_answers([row], tokenizer, allowed)
        assert found is not None
        assert found.longest == needed
    ids, key = learned(row, tokenizer), key_of(row, tokenizer)
    for allowed in range(max(needed, 1), len(ids)):  # a model that answers as it is taught is stopped here
        assert long_answers([row], tokenizer, allowed) is None
        assert key.read(ids[:allowed], tokenizer, ended=False).strip() == answer
    assert enough_tokens([row], tokenizer) > needed + 10  # as it is taught


def test_an_empty_answer_needs_no_reasoning() -> None:
    tokenizer = family_templates.tokenizer_of("Qwen 3")
    assert long_answers([chat(""), chat("", reasoning_content="on and on")], tokenizer, 1) is None
    found = long_answers([chat("joy")], tokenizer, 2)
    assert found is not None
    assert found.count == 1
