"""One row as it is trained and asked: every token of it in the right place, and how it looks in a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from family_table import FAMILIES, TOOLS, call, example_of, rows
from family_templates import tokenizer_of
from rich.console import Console
from toy_tokenizers import TOKENIZERS, byte_level

from seekr.cli.main import main
from seekr.data.encoding import encode_all
from seekr.data.example import parse_row
from seekr.data.reading import one_row
from seekr.data.showing import ShownRow, show_row
from seekr.data.task import Task
from seekr.errors import InputError
from seekr.report.row_view import print_row


def printed(row: ShownRow, *, width: int = 80, colours: bool = False) -> str:
    out = io.StringIO()
    kind = {"force_terminal": True, "color_system": "standard"} if colours else {}
    print_row(row, Console(file=out, width=width, highlight=False, markup=False, soft_wrap=True, **kind))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("limit", [None, 60, 30, 12])
@pytest.mark.parametrize("family", ["Qwen 3", "gpt-oss", "Llama 2", "GLM 4.5", "Gemma 2"])
def test_every_sign_of_a_row_is_shown_once_by_what_becomes_of_it(family: str, limit: int | None) -> None:
    """Against what is trained: the kinds hold as many tokens (here bytes and marks) as the row has of them."""
    example, tokenizer = example_of(family, "several"), tokenizer_of(family)
    shown = show_row(example, tokenizer, limit, 4)
    encoded = encode_all([example], tokenizer, limit)
    whole = encode_all([example], tokenizer, None)
    assert len(shown.texts) == len(encoded)
    for text, row, uncut in zip(shown.texts, encoded, whole, strict=True):
        assert (text.tokens, text.trained) == (len(row.input_ids), int((row.labels != -100).sum()))
        count = dict.fromkeys(("prompt", "trained", "end", "cut"), 0)
        for piece in text.pieces:
            if piece.kind != "unread":
                count[piece.kind] += len(tokenizer(piece.text, add_special_tokens=False).input_ids)
        assert count["prompt"] == int((row.labels == -100).sum())
        assert count["trained"] + count["end"] == text.trained
        assert count["cut"] == len(uncut.input_ids) - len(row.input_ids)
        written = "".join(piece.text for piece in text.pieces)
        assert written.startswith(tokenizer.decode(uncut.input_ids).removesuffix(tokenizer.eos_token))
        assert "".join(text.learned) == tokenizer.decode(row.labels[row.labels != -100])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_are_whole_whatever_a_tokenizer_leaves_out_of_its_offsets(name: str) -> None:
    example = parse_row({"prompt": "Translate.\nOutput:\n\n", "answer": "le chat\n\nsat "}, "row")
    (text,) = show_row(example, TOKENIZERS[name](), None, 8).texts
    assert "Translate.\nOutput:\n\nle chat\n\nsat " in "".join(piece.text for piece in text.pieces)
    assert [piece.kind for piece in text.pieces][-1] in ("end", "unread")


def test_without_colours_brackets_say_what_is_trained() -> None:
    shown = printed(show_row(example_of("Qwen 3", "several"), tokenizer_of("Qwen 3"), None, 8))
    first, second, asked, facts = shown.split("\n\n")
    assert first.splitlines()[1:] == [
        "read  ⟦trained⟧  ⟦end token, trained⟧  ⟨left out⟩",
        *["<|im_start|>user", "Is ice cold?<|im_end|>", "<|im_start|>assistant"],
        *["⟦<think>↵", "↵", "</think>↵", "↵", "yes⟧⟦<|im_end|>⟧⟨↵", "⟩"],
    ]
    assert first.startswith("Qwen 3, several, text 1 of 2: ")
    assert second.endswith("⟦<think>↵\n↵\n</think>↵\n↵\nno⟧⟦<|im_end|>⟧⟨↵\n⟩")
    assert asked.splitlines()[1:] == second.rpartition("⟦<think>")[0].splitlines()[2:]
    assert facts.splitlines()[1] == "compared with: 'no'"


def test_what_is_cut_asked_and_compared_is_said() -> None:
    example = parse_row({"prompt": "how many legs has the cat on the mat?", "answer": "42 legs", "id": 3}, "row 1")
    text = printed(show_row(example, byte_level(), 10, 4))
    assert "row 1: 10 tokens, " in text
    assert "\n<s>✂how many legs has✂ the cat on the mat?⟦ 42 legs⟧⟦</s>⟧\n" in text
    assert "generated from 6 tokens:" in text
    assert "learned: ' 42 legs</s>'" in text
    assert "compared with: '42 legs'" in text
    assert "note: ignored of the rows, as nothing reads it: id" in text


@pytest.mark.parametrize("width", [80, 50])
def test_in_a_terminal_it_is_coloured_and_says_the_same(width: int) -> None:
    row = show_row(example_of("gpt-oss", "reasoning"), tokenizer_of("gpt-oss"), None, 8)
    coloured = printed(row, width=width, colours=True)
    assert "\x1b[1;32m<|channel|>analysis<|message|>Ice is frozen." in coloured
    assert "\x1b[1;35m<|return|>" in coloured
    assert "⟦" not in coloured
    assert "taken off what is generated: " in printed(row)
    assert "'<|channel|>final<|message|>' in front" in printed(row)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer_of("Qwen 2.5").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_shows_a_row_of_a_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    turns = rows("Qwen 2.5")["several"]
    file.write_text("\n".join(json.dumps(row) for row in ({"prompt": 7}, turns, {"messages": [], "tools": TOOLS})))
    command = ["tasks", "show", str(file), "--tokenizer", str(model)]
    assert main([*command, "--row", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{file}, row 2 (line 2): ")
    assert out.count("⟦<|im_end|>⟧") == 2
    assert err == ""
    assert main([*command, "--row", "2", "answers=last", "--max-length", "30", "max_new_tokens=4"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("⟦<|im_end|>⟧") == 1
    assert "cut by max_length" in out
    for more, why in (
        (["--row", "1"], "rows.jsonl, row 1 (line 1): 'prompt' must be a string"),
        (["--row", "9"], "there is no row 9; it has 3 rows"),
        (["--row", "0"], "'0' is no whole number of at least 1"),
        (["--row", "2", "answer=last"], "unknown key 'answer'; did you mean 'answers'?"),
        (["--row", "2", "max_new_tokens=0"], "max_new_tokens must be a whole number"),
        (["--row", "2", "--max-length", "1"], "--max-length: 1 leaves no room"),
        (["--json", "x.json"], "--json goes with `seekr tasks check`"),
    ):
        assert main([*command, *more]) == 2, more
        out, err = capsys.readouterr()
        assert out == ""
        assert why in err
        assert err.count("\n") == 1
    assert main(["tasks", "show", str(file)]) == 2
    assert "say whose: --tokenizer MODEL" in capsys.readouterr().err
    assert main(["tasks", "check", str(tmp_path), "--row", "1"]) == 2
    assert "--row goes with `seekr tasks show`" in capsys.readouterr().err


def test_one_row_is_read_whatever_the_others_are() -> None:
    source = [{"prompt": 7}, {"prompt": "q", "answer": "a"}]
    assert one_row(Task("t", train=source), 2).answer == "a"
    with pytest.raises(InputError, match="row 1: 'prompt' must be a string"):
        one_row(Task("t", train=source), 1)


def test_all_families_can_be_shown() -> None:
    for family in FAMILIES:
        text = printed(show_row(example_of(family, "one"), tokenizer_of(family), None, 8))
        assert "compared with: 'yes'" in text
    example = parse_row({"messages": [{"role": "user", "content": "Bonn?"}, call("x")], "tools": TOOLS}, "row")
    assert "weather" in printed(show_row(example, tokenizer_of("Qwen 2.5"), None, 8)).split("compared with: ")[1]
