"""Thirty chat templates as those of current families: what is learned is what is asked for and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from family_table import DAY, TOOLS, answer_ids, encoded, example_of, one_question, other_conversations, rows
from family_templates import FAMILIES, tokenizer_of

from seekr.data.clock import fixed_clock
from seekr.data.encoding import Encoded, encode, encode_all, encode_prompts
from seekr.data.example import parse_row
from seekr.errors import InputError

DATA = Path(__file__).parents[2] / "docs" / "data.md"
KINDS = ("one", "several", "tools", "call", "reasoning", "inside")


def usable(family: str, kind: str) -> bool:
    try:
        encoded(family, kind)
    except InputError:
        return False  # which ones are, the docs list
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_what_is_asked_for_and_compared(family: str, kind: str) -> None:
    """The prompt is the tokens before the answer in training; the answer, generated as it is learned, is right."""
    if not usable(family, kind):
        return
    texts, key, asked = encoded(family, kind)
    last = texts[-1]
    assert last.input_ids[: len(asked)].tolist() == asked
    assert last.labels[len(asked) - 1] == -100 != last.labels[len(asked)]
    assert (last.labels[len(asked) :] == last.input_ids[len(asked) :]).all()
    said = key.read(answer_ids(last, family), tokenizer_of(family))
    assert said.strip() == key.references[0].strip() != ""


def learned_at(text: Encoded, asked: list[int]) -> list[int] | None:
    """The answer that a text teaches behind these tokens."""
    stop = len(asked)
    if text.input_ids[:stop].tolist() != asked or stop >= len(text.labels) or text.labels[stop] == -100:
        return None
    rest = text.labels[stop:].tolist()
    return rest[: rest.index(-100)] if -100 in rest else rest


@pytest.mark.parametrize("kind", ["several", "tools"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_turn_is_learned_as_the_model_is_asked_for_it_at_that_point(family: str, kind: str) -> None:
    """The definition: the conversation cut off behind that turn. The end token may come with the last turn alone."""
    if not usable(family, kind):
        return
    texts, _, _ = encoded(family, kind)
    tokenizer, row = tokenizer_of(family), rows(family)[kind]
    for turn, message in enumerate(row["messages"]):
        if message["role"] != "assistant":
            continue
        part = parse_row({**row, "messages": row["messages"][: turn + 1]}, "row", answers="last",
                         chat=example_of(family, kind).chat)  # fmt: skip
        with fixed_clock(DAY):
            alone = encode(part, tokenizer, None)
            asked = encode_prompts([part], tokenizer, None, 8)[0].ids.tolist()
        expected = learned_at(alone, asked)
        found = [answer for text in texts if (answer := learned_at(text, asked)) is not None]
        assert expected is not None
        assert len(found) == 1
        assert found[0] in (expected, expected[:-1])
        assert found[0][-1] != expected[0] or len(expected) == 1  # an end was learned


@pytest.mark.parametrize("family", [name for name in FAMILIES if usable(name, "reasoning")])
def test_a_reasoning_makes_no_difference_to_what_is_compared(family: str) -> None:
    """An answer with a reasoning is right for a row without one, and the other way round, where both are written."""
    tokenizer = tokenizer_of(family)
    (thought,), of_thought, asked_after = encoded(family, "reasoning")
    (bare,), of_bare, asked = encoded(family, "one")
    assert of_thought.read(answer_ids(thought, family), tokenizer).strip() == "yes"
    if asked == asked_after:
        assert of_bare.read(answer_ids(thought, family), tokenizer).strip() == "yes"
        assert of_thought.read(answer_ids(bare, family), tokenizer).strip() == "yes"
    wrong = tokenizer("no", add_special_tokens=False).input_ids
    assert of_thought.read(wrong, tokenizer) == of_bare.read(wrong, tokenizer) == "no"


def test_a_question_and_a_call_are_compared_with_what_is_written_of_them() -> None:
    assert encoded("Qwen 3", "call")[1].references == [
        '<tool_call>\n{"name": "weather", "arguments": {"town": "Bonn"}}\n</tool_call>'
    ]
    assert encoded("gpt-oss", "call")[1].references[0].strip() == (
        'to=functions.weathercommentary json{"town": "Bonn"}'  # as decoded without special tokens
    )


@pytest.mark.parametrize("content", [None, ""])
def test_tools_reach_the_template_and_calls_and_answers_are_learned(content: str | None) -> None:
    row = rows("Qwen 2.5")["tools"]
    row["messages"][1]["content"] = content
    (text,) = encode_all([parse_row(row, "row")], tokenizer_of("Qwen 2.5"), None)
    tokenizer = tokenizer_of("Qwen 2.5")
    written = tokenizer.decode(text.input_ids)
    assert json.dumps(TOOLS[0]) in written.split("<|im_start|>user")[0]
    learned = tokenizer.decode(text.labels[text.labels != -100])
    call = '<tool_call>\n{"name": "weather", "arguments": {"town": "Bonn"}}\n</tool_call>'
    assert learned == f"{call}<|im_end|>It is 12.<|im_end|>"


@pytest.mark.parametrize("family", ["Qwen 3", "GLM 4.5", "gpt-oss", "Seed-OSS"])
def test_a_call_after_a_reasoning_is_compared_without_it(family: str) -> None:
    row = rows(family)["call"]
    thinking = {**row["messages"][1], "reasoning_content": "I ask."}
    tokenizer = tokenizer_of(family)
    with fixed_clock(DAY):
        example = parse_row({**row, "messages": [row["messages"][0], thinking]}, "row")
        (asked,) = encode_prompts([example], tokenizer, None, 8)
        (text,) = encode_all([example], tokenizer, None)
    assert "I ask." in tokenizer.decode(text.input_ids)
    assert asked.key.references[0].strip() == encoded(family, "call")[1].references[0].strip()
    for one in (text, encoded(family, "call")[0][0]):
        assert asked.key.read(answer_ids(one, family), tokenizer).strip() == asked.key.references[0].strip()


def test_the_tables_of_the_docs_are_what_becomes_of_the_families() -> None:
    assert len(FAMILIES) >= 25
    page = DATA.read_text(encoding="utf-8")
    assert one_question() in page
    assert other_conversations() in page
