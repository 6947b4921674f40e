"""Rows of any make, nearly right and quite wrong: each is read and rendered, or refused in one short line."""

from __future__ import annotations

import os
from typing import Any

from family_templates import tokenizer_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from seekr.data.encoding import encode_all, encode_prompts
from seekr.data.example import parse_row
from seekr.data.fields import field_notes
from seekr.data.showing import show_row
from seekr.errors import InputError

FAMILIES = ("Qwen 3", "gpt-oss", "DeepSeek R1", "Mistral 0.3", "Gemma 3", "MiniMax M2", "Llama 2", "Kimi K2")
COUNT = int(os.environ.get("SEEKR_FUZZED_ROWS", "150"))

texts = st.sampled_from(
    ["", " ", "\n", "a", "yes", "<think>x</think>y", "{}", '{"a": null}', "<|im_end|>", "é\u0301", "😀"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(st.sampled_from(["town", "n"]), anything, max_size=2) | texts | anything
functions = st.fixed_dictionaries({"name": texts}, optional={"arguments": arguments})
calls = st.fixed_dictionaries({"function": functions}, optional={"id": texts, "type": texts}) | functions | anything
parts = (
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "audio"])}, optional={"text": texts}) | anything
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "developer", ""])
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": roles | anything,
        "content": texts | st.lists(parts, max_size=2) | anything,
        "tool_calls": st.lists(calls, max_size=2) | anything,
        "reasoning_content": texts | anything,
        "weight": st.sampled_from([0, 1]) | anything,
        "train": st.booleans() | anything,
        "name": texts,
        "tool_call_id": texts,
    },
)
told = st.fixed_dictionaries({"role": st.just("assistant"), "content": texts})
asked = st.fixed_dictionaries({"role": st.just("user"), "content": texts})
shared = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "function_call", "x"]), "value": texts | anything}
)
made = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": arguments})})
calling = st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": st.lists(made, min_size=1, max_size=2)})
result = st.fixed_dictionaries({"role": st.just("tool"), "content": texts}, optional={"name": texts})
usual = st.lists(asked | told | calling | result, max_size=3)
conversations = st.tuples(asked, usual | st.lists(turns, max_size=2), told).map(lambda it: [it[0], *it[1], it[2]])
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}) | anything, max_size=2)
rows = st.fixed_dictionaries(
    {},
    optional={
        "messages": conversations | st.lists(turns | anything, max_size=3) | anything,
        "conversations": st.lists(shared | turns, max_size=3) | anything,
        "prompt": texts | conversations | anything,
        "answer": texts | st.lists(texts) | anything,
        "completion": texts | conversations | anything,
        "references": st.lists(texts) | anything,
        "tools": tools | texts | anything,
        "instruction": texts,
        "output": texts,
        "input": texts | anything,
        "system": texts | anything,
        "chat_template_kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "tokenize"]), anything) | anything,
        "other": anything,
    },
)


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    row=rows | st.fixed_dictionaries({"messages": conversations}, optional={"tools": tools}) | anything,
    number=st.integers(0, 7),
)
def test_a_row_is_used_or_refused_in_one_line(row: Any, number: int) -> None:
    said = used(row, tokenizer_of(FAMILIES[number]))
    assert all("\n" not in line and len(line) < 600 for line in said)


def used(row: Any, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What is said of a row, or why it is refused."""
    try:
        example = parse_row(row, "row 1")
        (*_, last) = encode_all([example], tokenizer, 40)
        encode_prompts([example], tokenizer, 40, 8)
        said = [*field_notes([example], tokenizer), *show_row(example, tokenizer, 40, 8).notes]
    except InputError as error:
        return [str(error)] if str(error).startswith("row 1: ") else ["no place is named\n"]
    return said if (last.labels != -100).any() else ["nothing is learned\n"]


def test_a_quarter_of_the_conversations_can_be_used() -> None:
    """Or the rows above would all be refused for one reason."""
    found: list[bool] = []

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(row=st.fixed_dictionaries({"messages": conversations}))
    def count(row: Any) -> None:
        try:
            encode_all([parse_row(row, "row 1")], tokenizer_of("Qwen 3"), None)
            found.append(True)
        except InputError:
            found.append(False)

    count()
    assert sum(found) > len(found) / 4
