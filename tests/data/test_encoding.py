"""Answer tokens, end tokens, cutting; and that a model is asked exactly as it was taught."""

import numpy as np
import pytest
from short_forms import encode_prompt
from tokenizers import Tokenizer, models, pre_tokenizers
from toy_tokenizers import SPECIAL, TOKENIZERS, byte_level
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from seekr.data.encoding import Encoded, EncodingSummary, encode, encode_all, encode_prompts, max_length_of
from seekr.data.example import Example, parse_row
from seekr.data.reading import read_split
from seekr.data.task import Task
from seekr.errors import InputError

PROMPTS = ["Translate.\nOutput:", "Is it true?\nOutput:\n", "Output:\n\n", "how many legs? ", "Say Output:  "]
ANSWERS = ["joy", "42", "(joy", "le chat sat.", "Ärger 😀", "7 legs,\nor 42", " true"]


def pair(prompt: str, answer: str, separator: str = " ") -> Example:
    return parse_row({"prompt": prompt, "answer": answer}, "row 1", separator=separator)


def labelled(row: Encoded) -> np.ndarray:
    assert ((row.labels == -100) | (row.labels == row.input_ids)).all()
    return row.input_ids[row.labels != -100]


def prefix(row: Encoded) -> list[int]:
    """What stands before the first answer token."""
    return row.input_ids[: int((row.labels != -100).argmax())].tolist()


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_whole_text_is_what_the_tokenizer_makes_of_it(tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    gap = "" if prompt[-1].isspace() else " "
    for answer in ANSWERS:
        row = encode(pair(prompt, answer), tokenizer, None)
        text = prompt + ("" if answer[0].isspace() else gap) + answer
        expected = tokenizer(text).input_ids
        expected = [*expected, tokenizer.eos_token_id] if expected[-1] != tokenizer.eos_token_id else expected
        assert row.input_ids.tolist() == expected
        assert row.input_ids.dtype == row.labels.dtype == np.int32
        assert (row.input_ids == tokenizer.eos_token_id).sum() == 1
        assert row.labels[-1] == tokenizer.eos_token_id
        assert not row.prompt_cut
        assert not row.answer_cut


@pytest.mark.parametrize("prompt", PROMPTS)
def test_labelled_tokens_are_the_answer_and_its_end(tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    for answer in ANSWERS:
        kept = labelled(encode(pair(prompt, answer), tokenizer, None))
        said = tokenizer.decode(kept, skip_special_tokens=True)
        known = tokenizer.decode(tokenizer(answer, add_special_tokens=False).input_ids, skip_special_tokens=True)
        assert said.strip() == known.strip()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_asked_as_taught(tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    asked = encode_prompt(pair(prompt, "unknown"), tokenizer, None, 8).tolist()
    assert asked
    for answer in ANSWERS:
        if not answer[0].isspace():
            assert prefix(encode(pair(prompt, answer), tokenizer, None)) == asked


def test_a_word_that_joins_the_sign_before_it_is_set_off_by_the_space() -> None:
    tokenizer = TOKENIZERS["modern_pattern"]()
    assert any(token.startswith(":j") for token in tokenizer.tokenize("Output:joy"))
    joined = prefix(encode(pair("Output:", "joy", separator=""), tokenizer, None))
    spaced = prefix(encode(pair("Output:", "joy"), tokenizer, None))
    assert joined != spaced == tokenizer("Output:").input_ids


def test_without_separator_the_text_is_that_of_the_file(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode(pair("Output:", "joy", separator=""), tokenizer, None)
    expected = [token for token in tokenizer("Output:joy").input_ids if token != tokenizer.eos_token_id]
    assert row.input_ids.tolist()[:-1] == expected
    asked = encode_prompt(pair("Output:", "joy", separator=""), tokenizer, None, 8).tolist()
    assert asked == [token for token in tokenizer("Output:").input_ids if token != tokenizer.eos_token_id]


def test_empty_answer_teaches_the_end_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    example = pair("Output:", "")
    row = encode(example, tokenizer, None)
    assert labelled(row).tolist() == [tokenizer.eos_token_id]
    assert prefix(row) == encode_prompt(example, tokenizer, None, 4).tolist()
    assert EncodingSummary.of([row]).empty_answers == 1


@pytest.mark.parametrize("end", [False, True])
def test_begin_and_end_come_once_even_if_the_file_writes_them(end: bool) -> None:
    tokenizer = byte_level(end=end)
    row = encode(pair("<s>Output:", "joy</s>"), tokenizer, None)
    assert (row.input_ids == tokenizer.bos_token_id).sum() == 1
    assert (row.input_ids == tokenizer.eos_token_id).sum() == 1
    assert row.input_ids.tolist() == encode(pair("Output:", "joy"), tokenizer, None).input_ids.tolist()


@pytest.mark.parametrize("max_length", range(2, 40))
def test_prompt_gives_way_behind_its_first_token_and_the_answer_only_then(max_length: int) -> None:
    tokenizer = byte_level()
    example = pair("how many legs on the mat has the cat? Output:", "42 legs, or 7")
    whole = encode(example, tokenizer, None)
    row = encode(example, tokenizer, max_length)
    answer, n = labelled(whole).tolist(), len(whole.input_ids)
    assert len(row.input_ids) == len(row.labels) == min(n, max_length)
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert row.labels[0] == -100
    assert row.prompt_cut == (max_length < n)
    assert row.answer_cut == (max_length < len(answer) + 1)
    assert labelled(row).tolist() == answer[: max_length - 1]
    if not row.answer_cut:
        rest = max_length - 1 if max_length < n else n - 1
        assert row.input_ids.tolist()[1:] == whole.input_ids.tolist()[n - rest :]


@pytest.mark.parametrize("room", [1, 2, 5, 30])
def test_prompt_to_generate_from_leaves_room_for_the_answer(room: int) -> None:
    tokenizer = byte_level()
    example = pair("how many legs on the mat? Output:", "42")
    whole = encode_prompt(example, tokenizer, None, 8).tolist()
    cut = encode_prompt(example, tokenizer, room + 8, 8).tolist()
    assert cut == (whole if len(whole) <= room else whole[:1] + whole[len(whole) - room + 1 :])
    assert len(cut) == min(room, len(whole))
    with pytest.raises(InputError, match="max_new_tokens: 8"):
        encode_prompt(example, tokenizer, 8, 8)


def test_many_rows_at_once_are_the_same_rows() -> None:
    tokenizer = byte_level()
    examples = [pair(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
    for one, row in zip(examples, encode_all(examples, tokenizer, 12), strict=True):
        alone = encode(one, tokenizer, 12)
        assert row.input_ids.tolist() == alone.input_ids.tolist()
        assert row.labels.tolist() == alone.labels.tolist()
    prompts = encode_prompts(examples, tokenizer, 12, 4)
    assert [p.ids.tolist() for p in prompts] == [encode_prompt(e, tokenizer, 12, 4).tolist() for e in examples]
    assert encode_all([], tokenizer, 12) == encode_prompts([], tokenizer, 12, 4) == []


def test_summary_counts_and_warns() -> None:
    tokenizer = byte_level()
    examples = [
        pair("how many legs? " * 9, "42"),
        pair("Output:", "le chat sat " * 9),
        pair("Output:", " "),
        pair("a", "b"),
    ]
    rows = encode_all(examples, tokenizer, 16)
    summary = EncodingSummary.of(rows)
    assert (summary.rows, summary.cut_answers, summary.empty_answers) == (4, 1, 1)
    assert summary.cut_prompts == 2
    assert summary.tokens == sum(len(row.input_ids) for row in rows)
    assert summary.answer_tokens == sum(len(labelled(row)) for row in rows)
    assert [line.split(" ")[0] for line in summary.warnings()] == ["2", "1", "1"]
    assert EncodingSummary.of(rows[3:]).warnings() == []


def test_characters_that_a_vocabulary_drops_do_not_shift_the_answer() -> None:
    pieces = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz:▁"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    example = pair("(ask)\r\r (A) output:", "(joy)")
    row = encode(example, tokenizer, None)
    assert "".join(tokenizer.convert_ids_to_tokens(labelled(row).tolist())) == "▁joy</s>"
    assert prefix(row) == encode_prompt(example, tokenizer, None, 8).tolist()
    assert "".join(tokenizer.convert_ids_to_tokens(prefix(row))) == "▁ask▁▁output:"


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    class Slow:
        is_fast = False
        eos_token_id = 1

    with pytest.raises(InputError, match="tokenizer Slow: it gives no character offsets"):
        encode(pair("a", "b"), Slow(), None)  # type: ignore[arg-type]
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no eos_token"):
        encode(pair("a", "b"), tokenizer, None)


def test_max_length_is_the_least_of_what_model_and_tokenizer_allow() -> None:
    tokenizer = byte_level()
    assert tokenizer.model_max_length > 10**9
    assert max_length_of(LlamaConfig(max_position_embeddings=77), tokenizer, None) == 77
    assert max_length_of(GPT2Config(n_positions=55), tokenizer, None) == 55
    tokenizer.model_max_length = 33
    assert max_length_of(LlamaConfig(max_position_embeddings=77), tokenizer, None) == 33
    assert max_length_of(LlamaConfig(max_position_embeddings=77), tokenizer, 60) == 60
    for wrong in (78, 1):
        with pytest.raises(InputError, match=f"max_length: {wrong}"):
            max_length_of(LlamaConfig(max_position_embeddings=77), tokenizer, wrong)


@pytest.mark.parametrize("model", ["stories260K", "tinystories-656k", "nano-instruct"])
def test_real_tokenizers_and_rows(shared, model: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(shared / "models" / model)
    for task in ("superni/task591", "superni/task511", "trace_500/FOMC", "trace_500/Py150"):
        folder = shared / "data" / task
        examples = read_split(Task("t", train=folder / "test.json", train_limit=40), "train", seed=0)
        prompts = encode_prompts(examples, tokenizer, None, 8)
        for example, row, asked in zip(examples, encode_all(examples, tokenizer, None), prompts, strict=True):
            assert row.input_ids[0] == tokenizer(example.prompt_text).input_ids[0]
            assert (row.input_ids == tokenizer.eos_token_id).sum() == 1
            said = tokenizer.decode(labelled(row), skip_special_tokens=True)
            if model == "tinystories-656k":
                # It drops characters, and joins ":" with a space that no token joins with what follows.
                known = tokenizer.decode(tokenizer(example.answer, add_special_tokens=False).input_ids)
                assert said.strip().removeprefix(":").strip() == known.strip()
            else:
                assert said.strip() == example.answer.strip()
                assert prefix(row) == asked.ids.tolist()
