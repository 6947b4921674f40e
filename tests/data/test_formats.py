"""Rows of other tools and chat rows of today: what is read of them, and one line for what cannot be."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import datasets
import pytest

from seekr.data.example import Example, parse_row
from seekr.errors import InputError

ASK, TELL = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def read(row: Any, **options: Any) -> Example:
    return parse_row(row, "rows.jsonl, row 2 (line 2)", **options)


def refused(row: Any) -> str:
    with pytest.raises(InputError) as error:
        read(row)
    text = str(error.value)
    assert text.startswith("rows.jsonl, row 2 (line 2): ")
    assert "\n" not in text
    assert len(text) < 600
    return text


def calling(arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": arguments}}],
        **more,
    }


def test_sharegpt_is_a_conversation() -> None:
    turns = [("system", "s"), ("human", "q"), ("gpt", "a"), ("human", "r"), ("gpt", "b")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns], "id": 7}
    example = read(row)
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in example.messages] == roles
    assert [message["content"] for message in example.messages] == [text for _, text in turns]
    assert (example.trained, example.answer, example.unread) == ((2, 4), "b", ("id",))


def test_sharegpt_of_functions_has_calls_results_and_tools() -> None:
    call = json.dumps({"name": "weather", "arguments": {"town": "Bonn", "unit": None}})
    turns = [("human", "q"), ("function_call", call), ("observation", "12"), ("gpt", "It is 12.")]
    row = {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "system": "s",
        "tools": json.dumps([TOOL]),
    }
    example = read(row)
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    (made,) = example.messages[2]["tool_calls"]
    assert made["function"] == {"name": "weather", "arguments": {"town": "Bonn", "unit": None}}  # a null of JSON text
    assert (example.tools, example.trained, example.unread, example.padded) == ([TOOL], (2, 4), (), False)
    assert "'from' must be one of human" in refused({"conversations": [{"from": "alien", "value": "x"}]})
    assert "must be the JSON of a call" in refused({"conversations": [{"from": "function_call", "value": "x"}]})
    assert read({"conversations": [ASK, TELL]}).messages == (ASK, TELL)  # under this name, in the usual form


@pytest.mark.parametrize(
    ("more", "prompt"),
    [({}, "Count.\n"), ({"input": "1 2"}, "Count.\n1 2\n"), ({"input": "", "system": "Be."}, "Be.\nCount.\n")],
)
def test_alpaca_is_a_prompt_of_lines_and_an_answer(more: dict[str, str], prompt: str) -> None:
    example = read({"instruction": "Count.", "output": "3", "text": "all of it", **more})
    assert (example.prompt_text, example.answer, example.references) == (prompt, "3", ["3"])
    assert (example.messages, example.unread) == ((), ("text",))


def test_alpaca_refuses_what_it_would_drop() -> None:
    row = {"instruction": "Count.", "output": "3"}
    assert "'history' is not read; give the conversation as 'messages'" in refused({**row, "history": [["a", "b"]]})
    assert "'input' must be a string, not int '7'" in refused({**row, "input": 7})
    assert "'answer' must be a string" in refused({**row, "output": 7})


def test_prompts_of_messages_are_context_alone() -> None:
    example = read({"prompt": [ASK, TELL, ASK], "completion": [{"role": "assistant", "content": "b"}]})
    assert (len(example.messages), example.trained, example.answer) == (4, (3,), "b")
    assert read({"prompt": [ASK], "completion": "b"}).messages == (ASK, {"role": "assistant", "content": "b"})
    assert "'completion' is missing next to a 'prompt' of messages" in refused({"prompt": [ASK]})


def test_a_row_of_messages_ignores_a_prompt_beside_them_by_name() -> None:
    example = read({"messages": [ASK, TELL], "prompt": "q", "prompt_id": "x", "none": None})
    assert (example.prompt_text, example.unread) == ("user: q", ("prompt", "prompt_id"))


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"prompt": "q", "answer": "4", "completion": "2 and 2 is 4"}, ("completion",)),
        ({"prompt": [ASK], "completion": "b", "answer": "c"}, ("answer",)),
        ({"instruction": "Count.", "output": "3", "answer": "4", "completion": "5"}, ("answer", "completion")),
    ],
)
def test_of_two_answers_the_one_that_is_not_trained_was_dropped_without_a_word(
    row: dict[str, object], unread: tuple[str, ...]
) -> None:
    assert read(row).unread == unread


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"weight": 0, "train": False}])
def test_a_turn_that_is_not_to_be_trained_is_context(mark: dict[str, Any]) -> None:
    wrong = {"role": "assistant", "content": "wrong", **mark}
    example = read({"messages": [ASK, wrong, ASK, TELL]})
    assert (example.trained, example.answer) == ((3,), "a")
    assert example.messages[1] == {"role": "assistant", "content": "wrong"}
    at_the_end = read({"messages": [ASK, TELL, ASK, wrong]})
    assert (at_the_end.trained, len(at_the_end.messages)) == ((1,), 2)
    assert "there is nothing to learn" in refused({"messages": [ASK, wrong]})
    assert read({"messages": [ASK, {**TELL, "weight": 1, "train": True}]}).trained == (1,)


def test_turns_of_others_that_ask_to_be_trained_are_named() -> None:
    row = {
        "messages": [{**ASK, "train": True}, TELL, {**ASK, "weight": 1}, {**TELL, "weight": 1}, {**ASK, "weight": 0}]
    }
    assert read(row).unread == ("train of role 'user'", "weight of role 'user'")
    assert read(row).trained == (1, 3)


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        ({"weight": 0.5}, "'weight' of messages[1] must be 0 or 1, not float '0.5'"),
        ({"weight": True}, "'weight' of messages[1] must be 0 or 1, not true or false"),
        ({"train": 1}, "'train' of messages[1] must be true or false, not int '1'"),
        ({"weight": 0, "train": True}, "messages[1] has weight 0 and train true; leave one of them out"),
    ],
)
def test_marks_that_say_nothing_clear_are_refused(mark: dict[str, Any], why: str) -> None:
    assert why in refused({"messages": [ASK, {**TELL, **mark}]})


def test_text_parts_are_text_and_others_are_refused() -> None:
    parts = [{"type": "text", "text": "one ", "image": None}, {"type": "text", "text": "two"}]
    assert read({"messages": [{"role": "user", "content": parts}, TELL]}).messages[0]["content"] == "one two"
    for kind in ("image", "image_url", "audio", "video"):
        why = refused({"messages": [{"role": "user", "content": [*parts, {"type": kind, kind: "x"}]}, TELL]})
        assert f"'content' of messages[0] has a part of type '{kind}'; parts must be text" in why
    assert "a part of type 'int'" in refused({"messages": [{"role": "user", "content": [7]}, TELL]})


def test_a_tables_padding_is_left_out_at_every_depth_and_named() -> None:
    """Two rows of one table: each has the other's keys, with nothing in them."""
    messages = [
        [ASK, calling({"town": "Bonn"}), {"role": "tool", "content": "12"}, TELL],
        [ASK, calling({"stock": "ABC"}), {"role": "tool", "content": "13", "name": "price"}, TELL],
    ]
    tools = [
        [
            {
                "type": "function",
                "function": {"name": "weather", "parameters": {"properties": {"town": {"type": "string"}}}},
            }
        ],
        [{"type": "function", "function": {"name": "price", "parameters": {"required": ["stock"]}}}],
    ]
    rows = [{"messages": m, "tools": t} for m, t in zip(messages, tools, strict=True)]
    table = datasets.Dataset.from_list(rows)
    assert "stock" in str(table[0])
    for place, row in enumerate(table):
        example = read(row)
        assert list(example.messages) == [
            {key: value for key, value in message.items() if value is not None} for message in messages[place]
        ]
        assert example.tools == tools[place]
        assert example.padded
    assert not read(rows[0]).padded  # its one null is that of the content, beside a call


def test_arguments_are_objects_whatever_they_were() -> None:
    for arguments in ({"town": "Bonn"}, '{"town": "Bonn"}'):
        (made,) = read({"messages": [ASK, calling(arguments)]}).messages[1]["tool_calls"]
        assert made["function"]["arguments"] == {"town": "Bonn"}
    assert read({"messages": [ASK, calling(None)]}).messages[1]["tool_calls"][0]["function"]["arguments"] == {}
    flat = {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "{}"}]}
    assert read({"messages": [ASK, flat]}).messages[1] == read({"messages": [ASK, calling({})]}).messages[1]
    for arguments in ("Bonn", "[1]", 7, ["Bonn"]):
        why = refused({"messages": [ASK, calling(arguments)]})
        assert "the arguments of 'weather' in messages[1] must be an object, or the JSON of one" in why


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "'content' of messages[1] is missing"),
        ({"messages": [ASK, calling({}, tool_calls=[])]}, "'content' of messages[1] is missing"),
        ({"messages": [ASK, {"role": "assistant", "function_call": {"name": "x"}}]}, "give its 'function_call' as"),
        ({"messages": [ASK, calling({}, tool_calls="x")]}, "'tool_calls' of messages[1] must be a list"),
        ({"messages": [ASK, calling({}, tool_calls=[{"function": {}}])]}, "must be objects with a 'function'"),
        ({"messages": [{"content": "q"}, TELL]}, "'role' of messages[0] is missing"),
        ({"messages": [{"role": 7, "content": "q"}, TELL]}, "'role' of messages[0] must be a string"),
        ({"messages": [ASK, {"role": "model", "content": "a"}]}, "no turn of role 'assistant'"),
        ({"messages": [ASK, TELL], "tools": "x"}, "'tools' is a text, but not the JSON of a list of tools"),
        ({"messages": [ASK, TELL], "tools": {"a": 1}}, "'tools' must be a list of objects"),
        ({"messages": [ASK, TELL], "tools": ["a"]}, "'tools' must be a list of objects"),
        ({"messages": [ASK, TELL], "chat_template_kwargs": "x"}, "chat_template_kwargs must be names and values"),
        ({"messages": [ASK, TELL], "chat_template_kwargs": {"tokenize": True}}, "'tokenize' is set by seekr"),
        ({"messages": [{"role": "tool", "content": {"a": 1}}, TELL]}, "'content' of messages[0] must be a string"),
    ],
)
def test_what_cannot_be_a_conversation_is_named(row: dict[str, Any], why: str) -> None:
    assert why in refused(row)


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_a_reasoning_has_the_names_that_templates_read(name: str) -> None:
    message = read({"messages": [ASK, {**TELL, name: "so"}]}).messages[1]
    assert (message["reasoning_content"], message["thinking"]) == ("so", "so")


def test_a_call_is_an_answer_in_words() -> None:
    example = read({"messages": [ASK, calling({"town": "Bonn"})], "tools": [TOOL]})
    assert example.answer == '{"name": "weather", "arguments": {"town": "Bonn"}}'
    both = read({"messages": [ASK, calling({}, content="I look."), {"role": "tool", "content": "12"}, TELL]})
    assert both.prompt_text == 'user: q\nassistant: I look.\n{"name": "weather", "arguments": {}}\ntool: 12'


def test_an_instruction_without_an_output_is_told_so() -> None:
    told = "'output' is missing next to 'instruction'; the row has instruction, outputs"
    assert told in refused({"instruction": "Count.", "outputs": "3"})


@pytest.mark.parametrize("arguments", [{"day": date(2024, 1, 5)}, {"of": b"x"}, '{"a":' * 3000 + "1" + "}" * 3000])
def test_arguments_that_are_no_json_are_one_line(arguments: Any) -> None:
    """A date of a Parquet file, or a text that is nested too deeply, was a traceback."""
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    said = refused({"messages": [ASK, {"role": "assistant", "tool_calls": calls}]})
    assert "the arguments of 'f' in messages[1]" in said
    assert len(said) < 600
    deep = "[" * 100_000
    assert "'tools' is a text, but not the JSON" in refused({"messages": [ASK, TELL], "tools": deep})
    assert "must be the JSON of a call" in refused({"conversations": [{"from": "function_call", "value": deep}]})
