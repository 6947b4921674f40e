"""Chat rows: which tokens of a rendered conversation are answers, and which templates cannot be used."""

import pytest
from short_forms import encode_prompt
from toy_tokenizers import CHATML, LLAMA2, REWRITING, byte_level, sentence_piece
from transformers import PreTrainedTokenizerFast

from seekr.data.encoding import Encoded, encode, encode_all
from seekr.data.example import Example, parse_row
from seekr.errors import InputError

TURNS = [("user", "how many legs?"), ("assistant", "42 legs"), ("user", "or 7?"), ("assistant", "true")]


def chat(turns: list[tuple[str, str]], answers: str = "all") -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return parse_row({"messages": messages}, "chat.json, row 3", answers=answers)  # type: ignore[arg-type]


def with_template(tokenizer: PreTrainedTokenizerFast, template: str, end: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    if end is not None:
        tokenizer.eos_token = end
    return tokenizer


def runs(example: Example, tokenizer: PreTrainedTokenizerFast, max_length: int | None = None) -> list[str]:
    """The labelled stretches of a row, as text."""
    return labelled(encode(example, tokenizer, max_length), tokenizer)


def labelled(row: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    stretches: list[list[int]] = []
    for i, label in enumerate(row.labels.tolist()):
        if label != -100:
            if i == 0 or row.labels[i - 1] == -100:
                stretches.append([])
            stretches[-1].append(label)
    return [tokenizer.decode(ids) for ids in stretches]


def test_every_assistant_turn_with_its_end_is_an_answer() -> None:
    tokenizer = with_template(byte_level(), CHATML, end="<|im_end|>")
    assert runs(chat(TURNS), tokenizer) == ["42 legs<|im_end|>", "true<|im_end|>"]
    assert runs(chat(TURNS, "last"), tokenizer) == ["true<|im_end|>"]


def test_text_is_the_templates_own_and_ends_with_the_end_token() -> None:
    tokenizer = with_template(byte_level(), CHATML, end="<|im_end|>")
    messages = [{"role": role, "content": content} for role, content in TURNS]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    expected = tokenizer(rendered, add_special_tokens=False).input_ids
    assert encode(chat(TURNS), tokenizer, None).input_ids.tolist() == expected
    assert tokenizer.bos_token_id not in expected


def test_a_template_whose_turn_ends_otherwise_gets_the_end_token_once_behind_the_last_answer() -> None:
    tokenizer = with_template(byte_level(), CHATML)
    assert runs(chat(TURNS), tokenizer) == ["42 legs<|im_end|>\n", "true<|im_end|>\n</s>"]


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_llama_2_begins_once_a_turn_as_the_template_says(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = with_template(make(), LLAMA2)
    row = encode(chat(TURNS), tokenizer, None)
    assert row.input_ids[0] == tokenizer.bos_token_id != row.input_ids[1]
    assert (row.input_ids == tokenizer.bos_token_id).sum() == 2
    assert (row.input_ids == tokenizer.eos_token_id).sum() == 2
    assert [text.replace(" ", "") for text in runs(chat(TURNS), tokenizer)] == ["42legs</s>", "true</s>"]


def test_system_turn_is_part_of_the_prompt() -> None:
    tokenizer = with_template(byte_level(), LLAMA2)
    example = chat([("system", "Answer."), *TURNS])
    assert [text.strip() for text in runs(example, tokenizer)] == ["42 legs </s>", "true </s>"]
    text = tokenizer.decode(encode_prompt(example, tokenizer, None, 8))
    assert text == "<s>[INST] <<SYS>>Answer.<</SYS>>how many legs? [/INST] 42 legs </s><s>[INST] or 7? [/INST]"


@pytest.mark.parametrize("template", [CHATML, LLAMA2, REWRITING])
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_asked_as_taught(make, template: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer = with_template(make(), template)
    for turns in (TURNS[:2], TURNS):
        example = chat(turns, "last")
        row = encode(example, tokenizer, None)
        asked = encode_prompt(example, tokenizer, None, 8).tolist()
        assert row.input_ids.tolist()[: len(asked)] == asked
        assert (row.labels[: len(asked)] == -100).all()
        assert (row.labels[len(asked) :] != -100).all()


def test_an_answer_that_a_template_rewrites_later_gets_a_row_of_its_own() -> None:
    tokenizer = with_template(byte_level(), REWRITING, end="<|im_end|>")
    thinking = [("user", "how many?"), ("assistant", "<think>so</think>42"), *TURNS[2:]]
    earlier, last = encode_all([chat(thinking)], tokenizer, None)
    assert labelled(earlier, tokenizer) == ["<think>so</think>42<|im_end|>"]
    assert labelled(last, tokenizer) == ["true<|im_end|>"]
    assert earlier.input_ids.tolist() == encode(chat(thinking[:2]), tokenizer, None).input_ids.tolist()
    assert last.input_ids.tolist() == encode(chat(thinking, "last"), tokenizer, None).input_ids.tolist()
    assert (earlier.example.prompt_text, earlier.example.references) == ("user: how many?", ["<think>so</think>42"])
    # The last answer alone is learned from one text, which is the one that the model is asked with.
    assert runs(chat(thinking, "last"), tokenizer) == ["true<|im_end|>"]
    assert runs(chat(thinking[:2]), tokenizer) == ["<think>so</think>42<|im_end|>"]


def test_empty_turn_teaches_its_end() -> None:
    tokenizer = with_template(byte_level(), CHATML, end="<|im_end|>")
    assert runs(chat([("user", "true?"), ("assistant", "")]), tokenizer) == ["<|im_end|>"]


def test_an_empty_last_answer_that_the_template_does_not_end_keeps_its_question() -> None:
    # Not even an end of turn is written: the row must not be cut back to the answer before.
    template = "{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}"
    template += "{{ m['content'] }}{% if m['content'] %}</s>{% endif %}{% endif %}{% endfor %}"
    tokenizer = with_template(byte_level(), template)
    turns = [*TURNS[:3], ("assistant", "")]
    assert runs(chat(turns), tokenizer) == ["42 legs</s>", "</s>"]
    assert tokenizer.decode(encode(chat(turns), tokenizer, None).input_ids).endswith("or 7?[/INST]</s>")


def test_turns_behind_the_last_answer_are_left_out() -> None:
    tokenizer = with_template(byte_level(), CHATML, end="<|im_end|>")
    more = encode(chat([*TURNS, ("user", "and?")]), tokenizer, None)
    assert more.input_ids.tolist() == encode(chat(TURNS), tokenizer, None).input_ids.tolist()


def test_too_long_a_conversation_keeps_its_last_answer() -> None:
    tokenizer = with_template(byte_level(), CHATML, end="<|im_end|>")
    whole = encode(chat(TURNS), tokenizer, None)
    row = encode(chat(TURNS), tokenizer, 20)
    assert row.prompt_cut
    assert not row.answer_cut
    assert row.input_ids.tolist() == [whole.input_ids[0], *whole.input_ids[-19:]]
    assert runs(chat(TURNS), tokenizer, 20)[-1] == "true<|im_end|>"


def test_a_row_that_a_template_cannot_take_is_named() -> None:
    tokenizer = with_template(byte_level(), LLAMA2)
    with pytest.raises(InputError, match=r"chat.json, row 3: .* roles must alternate"):
        encode(chat([("user", "a"), ("user", "b"), ("assistant", "c")]), tokenizer, None)
    with pytest.raises(InputError, match=r"chat.json, row 3: chat rows need a tokenizer with a chat template"):
        encode_prompt(chat(TURNS), byte_level(), None, 8)
