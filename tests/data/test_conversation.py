"""Templates and conversations: the form that a template takes, what it leaves out, its variables, file and clock."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from family_templates import tokenizer_of
from toy_tokenizers import CHATML, byte_level
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from seekr.data.clock import clock_of, fixed_clock
from seekr.data.encoding import EncodingSummary, encode, encode_all, encode_prompts
from seekr.data.example import Chat, Example, parse_row
from seekr.data.fields import field_notes
from seekr.data.reading import read_split
from seekr.data.task import Task
from seekr.errors import InputError

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS_IN_PARTS = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}",
)
DATED = "<|im_start|>system\n{{ strftime_now('%d %b %Y %H:%M') }}<|im_end|>\n" + CHATML


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.chat_template, tokenizer.eos_token = template, "<|im_end|>"
    return tokenizer


def chat(*turns: tuple[str, Any], row: dict[str, Any] | None = None, **options: Any) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return parse_row({"messages": messages, **(row or {})}, "chat.jsonl, row 3", **options)


ONE = (("user", "how many legs?"), ("assistant", "42"))


def text_of(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode(encode(example, tokenizer, None).input_ids))


def refusal(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
    texts = []
    for work in (lambda: encode(example, tokenizer, None), lambda: encode_prompts([example], tokenizer, None, 8)):
        with pytest.raises(InputError) as error:
            work()
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert texts[0].startswith("chat.jsonl, row 3: ")
    assert "\n" not in texts[0]
    assert len(texts[0]) < 600
    return texts[0]


def test_a_template_of_parts_gets_parts() -> None:
    """It writes nothing of a content that is text: the model would learn to say nothing."""
    parts = tokenizer_with(PARTS)
    assert text_of(chat(*ONE), parts) == text_of(chat(*ONE), tokenizer_with(CHATML))
    assert encode_prompts([chat(*ONE)], parts, None, 8)[0].key.references == ["42"]
    listed = [("user", [{"type": "text", "text": "how many "}, {"type": "text", "text": "legs?"}]), ONE[1]]
    for tokenizer in (parts, tokenizer_with(CHATML)):
        assert text_of(chat(*listed), tokenizer) == text_of(chat(*ONE), tokenizer)


def test_a_template_that_takes_the_question_in_no_form_with_the_answer_is_refused() -> None:
    assert "the chat template leaves out the question in messages[0], 'how many legs?'" in refusal(
        chat(*ONE), tokenizer_with(QUESTIONS_IN_PARTS.replace("p.text", "p.nothing"))
    )


@pytest.mark.parametrize("lost", ["", "{{ m['content'][:1] }}", "{{ m['content']|upper }}"])
def test_an_answer_that_is_not_in_its_rendered_span_is_refused(lost: str) -> None:
    template = CHATML.replace(
        "{{ m['content'] }}", "{% if m.role == 'assistant' %}" + lost + "{% else %}{{ m.content }}{% endif %}"
    )
    example = chat(("user", "how many legs?"), ("assistant", "forty two"))
    why = refusal(example, tokenizer_with(template))
    assert "leaves out some or all of the answer in messages[1], 'forty two', so it would not be learned" in why
    assert "chat_template: FILE" in why


def test_white_space_that_a_template_trims_is_no_part_of_an_answer() -> None:
    tokenizer = tokenizer_with(CHATML.replace("m['content']", "m['content']|trim"))
    assert text_of(chat(ONE[0], ("assistant", " 42\n")), tokenizer).endswith("assistant\n42<|im_end|>")
    assert encode_prompts([chat(ONE[0], ("assistant", " 42\n"))], tokenizer, None, 8)[0].key.references == [" 42\n"]


def test_turns_of_other_roles_that_a_template_leaves_out_are_named() -> None:
    template = "{% for m in messages if m.role in ('user', 'assistant') %}" + CHATML.split("{% for m in messages %}")[1]
    tokenizer = tokenizer_with(template)
    examples = [chat(("system", "Be brief."), *ONE), chat(*ONE)]
    summary = EncodingSummary.of(encode_all(examples, tokenizer, None))
    assert summary.warnings() == ["1 of 2 rows: the chat template leaves out what role 'system' says"]
    assert encode_prompts(examples, tokenizer, None, 8)[0].notes == tuple(summary.notes)


def test_a_question_that_a_template_writes_otherwise_with_its_answer_is_refused() -> None:
    template = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] }}{{ ' (answered)' if not add_generation_prompt }}"
    )
    assert "writes a question otherwise once an answer is there" in refusal(chat(*ONE), tokenizer_with(template))


def test_what_a_question_opens_and_no_answer_has_is_left_out_and_named() -> None:
    tokenizer = tokenizer_of("DeepSeek R1")
    for turns in (ONE, (*ONE, ("user", "or 7?"), ("assistant", "<b>"))):
        example = chat(*turns)
        (row,) = encode_all([example], tokenizer, None)
        (asked,) = encode_prompts([example], tokenizer, None, 8)
        assert tokenizer.decode(asked.ids).endswith("?<|Assistant|>")
        assert row.input_ids[: len(asked.ids)].tolist() == asked.ids.tolist()
        assert row.notes == asked.notes
        assert r"asked without '<think>\n'" in row.notes[0]


def test_arguments_are_text_where_a_template_joins_them_to_text() -> None:
    call = {"function": {"name": "weather", "arguments": {"town": "Köln", "unit": None}}}
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    example = parse_row(row, "row")
    assert '{"town": "Köln"}' in text_of(example, tokenizer_of("DeepSeek R1"))
    assert '{"town": "Köln"}' in text_of(example, tokenizer_of("Qwen 2.5"))


def test_a_template_that_wants_a_content_gets_an_empty_one() -> None:
    template = CHATML.replace("{{ m['content'] }}", "{{ m['content'] + '' }}{{ m.tool_calls[0].function.name }}")
    call = {"function": {"name": "weather", "arguments": {}}}
    row = {
        "messages": [
            {"role": "user", "content": "q", "tool_calls": [call]},
            {"role": "assistant", "tool_calls": [call]},
        ]
    }
    assert text_of(parse_row(row, "row"), tokenizer_with(template)).endswith("assistant\nweather<|im_end|>")


def test_variables_of_the_template_come_from_the_row_over_the_task() -> None:
    tokenizer = tokenizer_of("Qwen 3")
    plain = encode_prompts([chat(*ONE)], tokenizer, None, 8)[0]
    closed = chat(*ONE, chat=Chat(None, {"enable_thinking": False}))
    (asked,) = encode_prompts([closed], tokenizer, None, 8)
    assert tokenizer.decode(asked.ids) == tokenizer.decode(plain.ids) + "<think>\n\n</think>\n\n"
    assert asked.key.form.lead == ""
    assert plain.key.form.lead == "<think>\n\n</think>\n\n"
    opened = chat(*ONE, row={"chat_template_kwargs": {"enable_thinking": True}}, chat=closed.chat)
    assert encode_prompts([opened], tokenizer, None, 8)[0].ids.tolist() == plain.ids.tolist()
    misspelt = chat(*ONE, chat=Chat(None, {"enable_thinkin": False}))
    assert "the chat template reads no 'enable_thinkin'" in refusal(misspelt, tokenizer)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"chat_template_kwargs": {"tools": []}}, "'tools' is set by seekr and no variable of a template"),
        ({"chat_template_kwargs": "x"}, "must be names and values"),
        ({"chat_template": ""}, "chat_template must be the file of a Jinja template"),
        ({"chat_template": 7}, "chat_template must be the file of a Jinja template"),
    ],
)
def test_what_cannot_be_a_template_or_its_variables_is_refused_with_the_task(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Task("t", train=[], **given)


def test_a_file_takes_the_place_of_the_tokenizers_template(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(CHATML.replace("<|im_start|>", "[INST]"))
    rows = [{"messages": [{"role": role, "content": content} for role, content in ONE]}]
    (example,) = read_split(Task("t", train=rows, chat_template=file), "train", seed=0)
    assert text_of(example, tokenizer_with(CHATML)).startswith("[INST]user\n")
    bare = byte_level()
    bare.eos_token = "<|im_end|>"
    assert text_of(example, bare) == text_of(example, tokenizer_with(CHATML))  # which needs none of its own
    for wrong, why in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "cannot be read"),
        (tmp_path / "empty", "is empty"),
    ):
        (tmp_path / "empty").write_text(" \n")
        with pytest.raises(InputError, match=why):
            read_split(Task("t", train=rows, chat_template=wrong), "train", seed=0)
    file.write_text("{% for %}")
    (example,) = read_split(Task("t", train=rows, chat_template=file), "train", seed=0)
    with pytest.raises(InputError, match="the chat template refuses these messages: Expected"):
        encode(example, bare, None)


def test_a_template_is_told_the_time_at_which_a_run_began() -> None:
    """By whatever transformers is installed: it keeps the function to itself."""
    tokenizer, real = tokenizer_with(DATED), chat_template_utils.datetime
    with fixed_clock(datetime(2021, 3, 4, 5, 6, 7)):
        assert "04 Mar 2021 05:06" in text_of(chat(*ONE), tokenizer)
        first = encode_prompts([chat(*ONE)], tokenizer, None, 8)[0].ids.tolist()
    assert chat_template_utils.datetime is real
    assert f"{datetime.now():%d %b %Y}" in text_of(chat(*ONE), tokenizer)
    with fixed_clock(datetime(2021, 3, 4, 5, 6, 59)):
        assert encode_prompts([chat(*ONE)], tokenizer, None, 8)[0].ids.tolist() == first


def test_the_time_of_a_run_is_that_of_its_record(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("{}")
    assert clock_of({"clock": "2021-03-04T05:06:07"}, file) == datetime(2021, 3, 4, 5, 6, 7)
    assert abs((clock_of({}, file) - datetime.now()).total_seconds()) < 100  # of an earlier version: that of the file
    for wrong in ("yesterday", 7, None):
        with pytest.raises(InputError, match=r"run.json: clock: .* is no time such as"):
            clock_of({"clock": wrong}, file)


def test_keys_are_named_once_as_used_or_ignored() -> None:
    rows = [
        {"messages": [{"role": "user", "content": "q", "name": "Tom"}, {"role": "assistant", "content": "a"}], "id": 1},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "r"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": [{"a": None}]},
        {"prompt": "p", "answer": "a", "source": "x"},
    ]
    examples = [parse_row(row, "row") for row in rows]
    assert field_notes(examples, tokenizer_of("Qwen 3")) == [
        "used of the rows, besides the text itself: reasoning_content, tools",
        "ignored of the rows, as nothing reads it: id, source, name",
        "1 of 4 rows: nulls in tools and calls are left out, as a table's padding",
    ]
    assert field_notes(examples, None)[0] == "ignored of the rows, as nothing reads it: id, source"
    assert field_notes([parse_row({"prompt": "p", "answer": "a"}, "row")], tokenizer_of("Qwen 3")) == []


def test_a_key_is_used_if_any_of_its_rows_says_so() -> None:
    """Of an earlier turn a template may leave it out."""
    earlier = chat(("user", "q"), ("assistant", "a"), *ONE)
    earlier.messages[1]["reasoning_content"] = "r"
    assert field_notes([earlier], tokenizer_of("Qwen 3")) == [
        "used of the rows, besides the text itself: reasoning_content"
    ]


def test_a_question_is_not_taken_for_a_letter_of_what_stands_before_it() -> None:
    """Of the question "a" one was found in <|im_start|>, and the header of the question was trained."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ' ' ~ loop.revindex ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant 1\n' }}{% endif %}"
    )
    row = chat(("user", "a"), ("assistant", "a"))
    assert "writes a question otherwise once an answer is there" in refusal(row, tokenizer_with(template))


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_of_a_template_that_opens_a_reasoning_is_asked(question: str) -> None:
    (text,) = encode_all([chat(("user", question), ("assistant", "42"))], tokenizer_of("MiniMax M2"), None)
    assert tokenizer_of("MiniMax M2").decode(text.labels[text.labels != -100]).startswith("42")
