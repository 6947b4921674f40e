"""How an answer is read and what it is compared with: the same is taken off both, and both are as decoded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from family_templates import tokenizer_of, tokenizer_with
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from toy_tokenizers import CHATML, SPECIAL, TOKENIZERS, byte_level
from transformers import PreTrainedTokenizerFast

from seekr import Task
from seekr.data.answers import AnswerForm, AnswerKey, key_of
from seekr.data.encoding import encode, encode_prompts
from seekr.data.example import Example, parse_row
from seekr.data.rendering import MARK, THOUGHT
from seekr.data.task_data import read_task

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lower_case() -> PreTrainedTokenizerFast:
    """Word pieces of lower-cased letters without accents, as BERT's."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), ":", "?"]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return wrapped(backend)


def composing() -> PreTrainedTokenizerFast:
    """Bytes of composed letters."""
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizers.NFC()
    return wrapped(backend)


def dropping() -> PreTrainedTokenizerFast:
    """Letters of a to z alone; of any other sign nothing is made."""
    pieces = [*SPECIAL, *LETTERS, "▁", ":"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    return wrapped(backend)


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def pair(answer: str, **more: object) -> Example:
    return parse_row({"prompt": "say:", "answer": answer, **more}, "row")


def learned(example: Example, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of an answer as it is learned, before its end."""
    row = encode(example, tokenizer, None)
    ids: list[int] = [label for label in row.labels.tolist() if label != -100]
    return ids[: ids.index(tokenizer.eos_token_id)]


@pytest.mark.parametrize(
    ("make", "answer", "compared"),
    [
        (lower_case, "Yes", "yes"),
        (lower_case, "Café au lait", "cafe au lait"),
        (composing, "Cafe\u0301", "Caf\u00e9"),
        (dropping, "a b7c", "a bc"),
        (dropping, "ABC", ""),
        (byte_level, "Cafe\u0301", "Cafe\u0301"),
    ],
)
def test_right_answers_are_compared_as_the_tokenizer_writes_them(
    make: Callable[[], PreTrainedTokenizerFast], answer: str, compared: str
) -> None:
    tokenizer, example = make(), pair(answer, references=[answer, "no"])
    key = key_of(example, tokenizer)
    assert [text.strip() for text in key.references] == [compared, "no"]
    assert key.read(learned(example, tokenizer), tokenizer).strip() == compared


def test_what_is_compared_otherwise_is_said_once_with_an_example() -> None:
    rows = [{"prompt": "say:", "answer": answer} for answer in ("Yes", "no", "Über", "7")]
    others = [{"prompt": "say", "answer": "7"}]
    data = read_task(Task("t", train=others, test=rows), lower_case(), 100, seed=0)
    assert data.warnings() == [
        "3 of 4 right answers are compared as template and tokenizer write them, such as 'yes' for 'Yes'; of 1 nothing "
        "is left, as the tokenizer knows none of their letters"
    ]
    assert read_task(Task("t", train=others, test=rows), byte_level(), 100, seed=0).warnings() == []


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("separator", [" ", ""])
def test_an_answer_as_it_is_learned_is_right(make: Callable[[], PreTrainedTokenizerFast], separator: str) -> None:
    tokenizer = make()
    for answer in ("joy", "42 legs", "(joy", " true", "cat\n\nsat", "Ärger 😀"):
        for prompt in ("Output:", "Output:\n", "Input: "):
            example = parse_row({"prompt": prompt, "answer": answer}, "row", separator=separator)
            (asked,) = encode_prompts([example], tokenizer, None, 8)
            row = encode(example, tokenizer, None)
            as_taught = row.input_ids[: len(asked.ids)].tolist() == asked.ids.tolist()
            assert as_taught == (row.labels[len(asked.ids) - 1] == -100)
            assert as_taught == (not asked.notes)
            assert as_taught or not separator or answer[0].isspace()
            if as_taught:
                said = asked.key.read(learned(example, tokenizer), tokenizer)
                assert said.split() == asked.key.references[0].split()


def test_a_prompt_that_its_answer_is_joined_with_is_named() -> None:
    """The model is asked with a colon, and has learned it only as the beginning of what comes."""
    rows = [{"prompt": "Output:", "answer": "joy"}, {"prompt": "Output:", "answer": "42"}]
    task = Task("t", train=[{"prompt": "Say:", "answer": "42"}], test=rows, separator="")
    (warning,) = read_task(task, TOKENIZERS["modern_pattern"](), 100, seed=0).warnings()
    assert warning.startswith("1 of 2 test rows: asked with other tokens than stand before the answer in training")


def test_what_a_token_joins_of_the_prompt_with_the_space_behind_it_is_taken_off() -> None:
    """The colon is generated with the space, and is no part of the answer."""
    pieces = [*SPECIAL, *LETTERS, "▁", ":", ":▁"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [(":", "▁")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer = wrapped(backend)
    (asked,) = encode_prompts([pair("joy")], tokenizer, None, 8)
    assert tokenizer.decode(asked.ids) == "say"
    assert tokenizer.decode(learned(pair("joy"), tokenizer)) == ": joy"
    assert asked.notes == ()
    assert asked.key.form == AnswerForm(lead=": ")
    assert asked.key.read(learned(pair("joy"), tokenizer), tokenizer) == "joy"


FORM = AnswerForm(lead="<think>\n\n</think>\n\n", closings=("\n</think>\n\n",), mark="<|end|>")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>\nso it is\n</think>\n\nyes", "yes"),
        ("<think> </think>yes<|end|>\n", "yes"),
        ("so it is</think> yes <|end|> and more", "yes"),
        ("yes", "yes"),
        (" yes ", " yes "),
        ("<think> on and on", "<think> on and on"),
        ("yes </think> no", "no"),
        ("<think>\nnot </think> yet\n</think>\n\nyes<|end|>\n<|user|> so </think> no", "yes"),
        ("", ""),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(text: str, answer: str) -> None:
    assert FORM.cut(text) == answer


def test_where_a_lead_has_a_line_break_a_reasoning_may_stand_and_elsewhere_not() -> None:
    lines, line = AnswerForm(lead="[A]\n[B]"), AnswerForm(lead="The answer is:")
    assert lines.cut("[A] x [B]yes") == "yes"
    assert line.cut("The answer is: yes") == "yes"
    assert line.cut("Thean swer is:yes") == "yes"  # white space makes no difference
    assert line.cut("The right answer is: yes") == "The right answer is: yes"
    assert lines.cut("so [A][B]yes") == "so [A][B]yes"  # a lead begins what is generated


@given(st.text(alphabet="abc \n<>/", max_size=40))
def test_a_plain_form_takes_nothing_off(text: str) -> None:
    assert AnswerForm().is_plain
    assert AnswerForm().cut(text) == text
    assert AnswerForm(trail="\n", lead=" ").cut(text) == text


@given(st.text(alphabet="abc <>/", max_size=20), st.text(alphabet="xyz ", min_size=1, max_size=9))
def test_whatever_was_thought_the_answer_is_read(thought: str, answer: str) -> None:
    if "</think>" in "".join(thought.split()):
        return
    assert FORM.cut(f"<think>\n{thought}\n</think>\n\n{answer}<|end|>").strip() == answer.strip()


def test_a_chat_answer_is_read_as_before_where_its_template_adds_nothing() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template, tokenizer.eos_token = CHATML, "<|im_end|>"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " a <s>b "}]
    key = key_of(parse_row({"messages": messages}, "row"), tokenizer)
    ids = tokenizer(" a <s>b ", add_special_tokens=False).input_ids
    assert key.read(ids, tokenizer) == tokenizer.decode(ids, skip_special_tokens=True) == " a b "
    assert [text.strip() for text in key.references] == ["a b"]  # <s> is a token, and no text
    assert AnswerKey(["x"]).read(ids, tokenizer) == " a b "


def turn(before: str, behind: str) -> str:
    """A template that writes plain text around an answer."""
    return (
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}{% if m.role == 'assistant' %}{{ '" + before
        + "' ~ m.content ~ '" + behind + "' }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )  # fmt: skip


def said(answer: str) -> Example:
    return parse_row({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}, "row")


@pytest.mark.parametrize("behind", ["", '"', ".", " ###", "\n\nThank you", ")", "<|im_start|> x"])
@pytest.mark.parametrize("answer", ["yes", "no.", "a ### b ###", 'say "x"', "(see) (2)", "Thank you"])
def test_plain_text_behind_an_answer_is_taken_off_what_is_generated_up_to_the_end_token(
    answer: str, behind: str
) -> None:
    """The end token was looked for behind it, which what is generated never has: every right answer scored 0."""
    tokenizer = tokenizer_with(turn("(", behind))
    key = key_of(said(answer), tokenizer)
    assert key.references == [answer]
    assert key.read(learned(said(answer), tokenizer), tokenizer).strip() == answer
    other = tokenizer(f"({answer} or not{behind}", add_special_tokens=False).input_ids
    assert key.read(other, tokenizer).strip() == f"{answer} or not"


def test_an_answer_that_holds_the_end_token_is_told() -> None:
    tokenizer = tokenizer_with(turn("", ""))
    whole, cut = encode_prompts([said("yes"), said("yes<|im_end|>no")], tokenizer, None, 8)
    assert whole.notes == ()
    assert "holds the end token, at which a model stops" in cut.notes[0]


def thought(reasoning: str, answer: str) -> Example:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer, "reasoning_content": reasoning}]
    return parse_row({"messages": turns}, "row")


@pytest.mark.parametrize("family", ["Qwen 3", "Qwen 3 thinking", "GLM 4.5", "Magistral"])
@pytest.mark.parametrize("answer", ["y", "use </think> here", "</think> </think>"])
def test_a_reasoning_that_names_its_own_end_was_compared(family: str, answer: str) -> None:
    """What was compared began at the first end of a reasoning, wherever that stood: another right answer scored 0."""
    tokenizer = tokenizer_of(family)
    for reasoning in ("a </think> b", "a [/THINK] b </think> c [/THINK]", "a"):
        key = key_of(thought(reasoning, answer), tokenizer)
        assert [text.strip() for text in key.references] == [answer]
        for other in (reasoning, "or </think> so", "x [/THINK] </think>", "so it is"):
            assert key.read(learned(thought(other, answer), tokenizer), tokenizer).strip() == answer
            wrong = key.read(learned(thought(other, f"{answer} not"), tokenizer), tokenizer)
            assert wrong.strip() == f"{answer} not"


TWICE = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content }}{% if m.role == 'assistant' %}"
    "{{ ' (' ~ m.content ~ ')' }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("answer", [MARK, f"{MARK}z", THOUGHT, f"{THOUGHT} {MARK}"])
def test_an_answer_that_is_a_stand_in_is_an_answer_as_others(answer: str) -> None:
    """Of a template that writes an answer twice, one that is the stand-in for it lost its second half."""
    tokenizer = tokenizer_with(TWICE)
    assert key_of(said("joy"), tokenizer).references == ["joy (joy)"]
    assert key_of(said(answer), tokenizer).references == [f"{answer} ({answer})"]
    for family in ("Qwen 3", "QwQ", "gpt-oss", "Magistral"):
        tokenizer = tokenizer_of(family)
        for row in (said(answer), thought(answer, answer)):
            key = key_of(row, tokenizer)
            assert [text.strip() for text in key.references] == [answer]
            assert key.read(learned(row, tokenizer), tokenizer).strip() == answer
