"""Looking through data folders: every kind of fault, put there on purpose and counted; and those of published files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from benchmark_folders import write_tasks
from family_templates import tokenizer_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from shown import cells
from toy_tokenizers import sentence_piece

from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.main import main
from seekr.data.checking import Lengths, Shared, check_folder
from seekr.data.encoding import encode_all
from seekr.data.example import Example, parse_row
from seekr.data.presets import PRESETS
from seekr.errors import InputError
from seekr.report.check_tables import findings, rows_table, tokens_table

Write = Callable[..., Path]


def row(prompt: str, answer: str) -> dict[str, str]:
    return {"prompt": prompt, "answer": answer}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(task: str = "t", **splits: list[object] | str) -> Path:
        for split, content in splits.items():
            path = tmp_path / "data" / task / f"{split}.{'json' if isinstance(content, list) else 'jsonl'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content) if isinstance(content, list) else content, encoding="utf-8")
        return tmp_path / "data"

    return write


def test_repeated_contradicting_and_empty_rows(write: Write) -> None:
    train = [row("a", "1"), row("a", "1"), row(" a\n", "1 "), row("a", "2"), row("b", ""), row("c", " ")]
    test = [row("d", ""), {"prompt": "e", "answer": ["x", ""]}, {"prompt": "f", "answer": "", "references": ["y"]}]
    (task,) = check_folder(write(train=train, test=test)).tasks
    split = task.splits["train"]
    assert (split.rows, split.repeated, split.contradicting, split.empty_answers) == (6, 2, 1, 2)
    assert task.splits["test"].empty_answers == 2  # of test rows the references count, of training rows the answer
    assert split.shared == {}


def test_rows_that_stand_in_several_splits(write: Write) -> None:
    train = [row("a", "1"), row("b", "1"), row("c", "1")]
    held = [row("a", "1"), row("a", "1"), row("b", "2"), row("z", "1")]
    folder = write(train=train, eval=[row("b", "2"), row("c", "1")], test=held)
    (task,) = check_folder(folder).tasks
    assert task.splits["test"].shared == {"train": Shared(prompts=3, rows=2)}
    assert task.splits["eval"].shared == {"train": Shared(prompts=2, rows=1), "test": Shared(prompts=1, rows=1)}
    assert not task.eval_is_test
    assert check_folder(write(eval=held[::-1])).tasks[0].eval_is_test
    assert not check_folder(write(eval=held[1:])).tasks[0].eval_is_test  # one of two equal rows is gone


def test_broken_rows_are_named_and_the_others_are_read(write: Write) -> None:
    lines = [
        '{"prompt": "a", "answer": "1"}',
        '{"prompt": "a" "answer"}',
        "",
        "[1]",
        '{"prompt": "b"}',
        '{"answer": "1"}',
    ]
    folder = write(train="\n".join(lines), test=[row("x", "y"), {"prompt": "x", "references": []}, row("", "y"), "z"])
    (task,) = check_folder(folder).tasks
    assert task.splits["train"].rows == 1
    assert [reason.split(":")[0] for reason in task.splits["train"].broken] == [
        "t/train.jsonl, line 2",
        "t/train.jsonl, row 3 (line 4)",
        "t/train.jsonl, row 4 (line 5)",
        "t/train.jsonl, row 5 (line 6)",
    ]
    assert "'answer' is missing" in task.splits["train"].broken[2]
    assert [reason.split(":")[0] for reason in task.splits["test"].broken] == [
        "t/test.json, row 2",
        "t/test.json, row 3",
        "t/test.json, row 4",
    ]


def test_half_a_character_is_found_without_a_tokenizer(write: Write) -> None:
    lines = "\n".join(json.dumps(row(prompt, "1")) for prompt in ("a", "b \ud83d", "c"))
    (task,) = check_folder(write(train=lines, test=[row("x", "\ude00")])).tasks
    assert [split.rows for split in task.splits.values()] == [2, 0]
    assert task.splits["train"].broken[0].startswith("t/train.jsonl, row 2 (line 2): prompt holds half of a character")
    assert task.splits["test"].broken[0].startswith("t/test.json, row 1: answer holds half of a character")


def test_every_kind_of_file_is_looked_through(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "t"
    folder.mkdir(parents=True)
    (folder / "train-0.csv").write_text("prompt,answer\na,1\nb,2,3\n")
    (folder / "train-1.jsonl").write_text('{"prompt": "c", "answer": "1"}\n{"prompt": \n')
    (folder / "train-2.jsonl").write_text('["broken as a whole"]')
    (folder / "train-3.jsonl").write_text('{"prompt": "d", "answer": "1"}\n')
    (folder / "test.parquet").write_text("no such thing")
    (task,) = check_folder(tmp_path / "data").tasks
    assert (task.splits["train"].rows, task.splits["test"].rows) == (3, 0)
    assert [reason.split(":")[0] for reason in task.splits["train"].broken] == [
        "t/train-0.csv, row 2 (line 3)",
        "t/train-1.jsonl, line 2",
        "t/train-2.jsonl",
    ]
    assert "t/test.parquet: not a whole Parquet file" in task.splits["test"].broken[0]


@pytest.mark.parametrize("content", ["[{", '{"prompt": "a", "answer": "b"}', "\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_finding_too(write: Write, tmp_path: Path, content: str) -> None:
    folder = write(test=[row("a", "b")])
    (folder / "t" / "train.json").write_bytes(content.encode("latin-1"))
    (task,) = check_folder(folder).tasks
    assert task.splits["train"].rows == 0
    (reason,) = task.splits["train"].broken
    assert reason.startswith("t/train.json")


@pytest.mark.parametrize("limit", [None, 7, 12, 20])
def test_lengths_and_cuts_are_those_of_training(write: Write, limit: int | None) -> None:
    tokenizer = sentence_piece()
    train = [row("the cat sat on " * i, "le chat " * (10 - i)) for i in range(1, 10)]
    (task,) = check_folder(write(train=train), tokenizer=tokenizer, max_length=limit).tasks
    tokens = task.splits["train"].tokens
    assert tokens is not None
    examples = [Example(item["prompt"], item["answer"], [item["answer"]], "") for item in train]
    whole = encode_all(examples, tokenizer, None)
    answers = sorted(sum(label >= 0 for label in encoded.labels) for encoded in whole)
    prompts = sorted(sum(label < 0 for label in encoded.labels) for encoded in whole)
    assert (tokens.answers.median, tokens.answers.longest) == (answers[4], answers[-1])
    assert (tokens.prompts.median, tokens.prompts.longest) == (prompts[4], prompts[-1])
    if limit is None:
        assert tokens.cut_prompts is tokens.cut_answers is None
    else:
        cut = encode_all(examples, tokenizer, limit)
        assert tokens.cut_prompts == sum(encoded.prompt_cut for encoded in cut)
        assert tokens.cut_answers == sum(encoded.answer_cut for encoded in cut)


def test_answers_that_cannot_be_given_are_a_finding(write: Write) -> None:
    tokenizer = sentence_piece()
    test = [row("say", "true false " * 30), row("say", "joy")]
    folder = write(train=test, eval=test[1:], test=test)
    (said,) = findings(check_folder(folder, tokenizer=tokenizer))
    assert said.startswith("t, test: 1 of 2 test answers take more than the 32 tokens of max_new_tokens and cannot be")
    longest = check_folder(folder, tokenizer=tokenizer).tasks[0].splits["test"].tokens.long_answers.longest
    assert not [
        line for line in findings(check_folder(folder, tokenizer=tokenizer, max_new_tokens=longest)) if "cannot" in line
    ]
    assert not [line for line in findings(check_folder(folder)) if "cannot" in line]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60))
def test_the_95th_of_a_hundred(counts: list[int]) -> None:
    lengths = Lengths.of(counts)
    assert lengths.longest == max(counts)
    for value, share in ((lengths.median, 0.5), (lengths.p95, 0.95)):
        assert value in counts
        assert sum(count <= value for count in counts) >= share * len(counts) - 1e-9
        assert sum(count < value for count in counts) < share * len(counts) + 1e-9


def test_a_preset_says_what_should_be_there_and_how_long_answers_may_be(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "data", [*PRESETS["superni-order-1"].names, "Lima"])
    (folder / "task195" / "test.json").unlink()
    (folder / "task363" / "eval.json").unlink()
    (folder / "task002").rename(folder / "other")
    long = [row("say", "x y " * 40), row("say it", "x")]
    (folder / "task875" / "test.json").write_text(json.dumps(long))
    check = check_folder(folder, preset="superni-order-1", tokenizer=sentence_piece(), max_length=18)
    assert check.missing == ["task363/eval", "task002", "task195/test"]
    assert check.others == ["Lima", "other"]
    assert [task.name for task in check.tasks] == [n for n in PRESETS["superni-order-1"].names if n != "task002"]
    tokens = check.tasks[-1].splits["test"].tokens
    assert tokens is not None
    assert (tokens.cut_prompts, tokens.cut_answers) == (2, 1)  # 16 tokens are generated: 2 are left for a prompt


def test_without_a_preset_a_task_should_have_what_its_siblings_have(write: Write) -> None:
    write("a", train=[row("a", "1")], eval=[row("b", "1")], test=[row("c", "1")])
    folder = write("b", train=[row("a", "1")], test=[row("b", "1")])
    (folder / "notes").mkdir()
    assert check_folder(folder).missing == ["b/eval"]
    assert check_folder(folder / "b").missing == []
    assert [task.name for task in check_folder(folder / "b").tasks] == ["b"]


def test_no_folder_and_no_task(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=str(folder)):
            check_folder(folder)


@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit_the_terminal(write: Write, width: int) -> None:
    rows = [row(f"the cat {i}", "le chat") for i in range(1500)]
    folder = write("a_task_with_a_rather_long_name_answer_generation", train=[*rows, *rows], eval=rows, test=rows)
    write("b", train="\n".join(["{"] * 9), test=rows)
    check = check_folder(folder, tokenizer=sentence_piece(), max_length=8)
    console = Console(width=width, record=True, force_terminal=True, file=StringIO())
    console.print(rows_table(check))
    console.print(tokens_table(check))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    lines = text.splitlines()
    rows = {split: next(line for line in lines if re.search(rf" {split}  +\d", line)) for split in ("train", "eval")}
    assert "3,000  " in rows["train"]
    assert rows["eval"].count("1,500 (1,500)") == 2
    assert cells(text, "b", "train")[2:] == ["0", "9"]
    told = list(findings(check))
    assert "eval is test, row by row: a_task_with_a_rather_long_name_answer_generation" in told
    assert "… and 6 more broken rows of this split" in told
    assert len(told) == 6  # missing, eval, three broken rows, and how many more


def test_the_command(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model_folder: Path) -> None:
    folder = write(train=[row("a", "1"), row("a", "1")], test=[row("a", "1")])
    file = tmp_path / "found.json"
    options = ["--tokenizer", str(tiny_model_folder), "--max-length", "8", "--json", str(file)]
    assert main(["tasks", "check", str(folder), *options]) == 0
    out, _ = capsys.readouterr()
    assert cells(out, "t", "train") == ["t", "train", "2", "1"]  # one row comes twice
    assert cells(out, "test") == ["test", "1", "1", "(1)"]  # and the test row is a train row
    found = json.loads(file.read_text())
    assert found == asdict(check_folder(folder, tokenizer=_tokenizer(tiny_model_folder), max_length=8))
    assert found["tasks"][0]["splits"]["train"]["repeated"] == 1
    assert main(["tasks", "check", str(write_tasks(tmp_path / "clean", ["x"]))]) == 0
    assert capsys.readouterr().out.endswith("no fault found\n")


TWO = {"prompt": "a", "answer": "b"}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"train": json.dumps({"prompt": "a \ud83d", "answer": "b"})}, "cannot be read (1 of t/train)"),
        ({"train": [TWO], "training": json.dumps(TWO)}, "cannot be read (1 of t/train)"),
        ({"train": "{", "test": "{\n{"}, "cannot be read (1 of t/train, 2 of t/test)"),
    ],
)
def test_what_learn_refuses_was_exit_status_0(
    fault: dict[str, Any], told: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    assert main(["tasks", "check", str(write(**fault)), "--json", str(file)]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"\nt(/train|: holds train\.json and training\.jsonl)", out)
    refused = f"`seekr learn` would refuse rows or files that {told}; see above"
    assert err == f"seekr: error: {tmp_path / 'data'}: {refused}\n"
    assert file.is_file()


def test_what_a_preset_lacks_is_refused_but_not_a_missing_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tasks(tmp_path / "data", PRESETS["trace-order-1"].names)
    assert main(["tasks", "check", str(folder), "--preset", "trace-order-1"]) == 0
    shutil.copy(folder / "FOMC" / "test.json", folder / "FOMC" / "eval.json")
    assert main(["tasks", "check", str(folder), "--preset", "trace-order-1"]) == 0
    (folder / "FOMC" / "train.json").unlink()
    assert main(["tasks", "check", str(folder), "--preset", "trace-order-1"]) == 2
    assert "would refuse what the preset lacks here (FOMC/train); see above" in capsys.readouterr().err


def _tokenizer(folder: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([".."], "no task in it"),
        (["."], "no task in it"),
        (["data", "--preset", "trace-order-9"], "did you mean 'trace-order-"),
        (["data", "--max-length", "9"], "--tokenizer MODEL"),
        (["data", "--max-length", "1", "--tokenizer", "x"], "leaves no room"),
        (["data", "--max-length", "-1"], "-1"),
        (["data", "--tokenizer", "./nowhere"], "no tokenizer"),
        (["data", "--json", "nowhere/x.json"], "cannot be written"),
    ],
)
def test_wrong_input(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    (here / "empty").mkdir(parents=True)
    if arguments[0] == "data":
        write_tasks(here / "data", ["a"])
    monkeypatch.chdir(here if arguments[0] != ".." else here / "empty")
    assert main(["tasks", "check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_the_example_of_the_docs(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Built-in rows with faults put into them; what the command prints of them stands in docs/benchmarks.md."""
    upper, back = (builtin_rows(task, "train", seed=0, count=60) for task in ("upper", "reverse"))
    write("upper", train=[*upper[:40], *upper[:3], {"prompt": "x"}], eval=upper[40:50], test=upper[40:50])
    blank = [{**row, "answer": ""} for row in back[:2]]
    folder = write("reverse", train=[*back[:40], *blank], test=[*back[50:], back[7]])
    assert main(["tasks", "check", str(folder), "--tokenizer", str(builtin_model()), "--max-length", "16"]) == 2
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "\n".join(shown) in "\n".join(line.rstrip() for line in page.splitlines())


def test_the_faults_of_published_files_are_shown(shared: Path) -> None:
    reasoning = check_folder(shared / "data" / "trace_reasoning", preset="trace-order-1")
    assert [task.name for task in reasoning.tasks if not task.eval_is_test] == ["C-STANCE"]
    assert reasoning.missing == []
    plain = check_folder(shared / "data" / "trace_500", preset="trace-order-1")
    assert (plain.missing, plain.others) == (["MeetingBank/train"], ["Lima"])
    assert not any(task.eval_is_test for task in plain.tasks)
    superni = {task.name: task for task in check_folder(shared / "data" / "superni").tasks}
    assert superni["task511"].splits["train"].empty_answers == 6
    everything = [*reasoning.tasks, *plain.tasks, *superni.values()]
    assert not any(split.broken for task in everything for split in task.splits.values())


def test_chat_rows_that_a_template_cannot_write_are_broken_and_the_others_counted(write: Write) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    call = {"function": {"name": "weather", "arguments": {}}}
    train = [
        {"messages": turns, "id": 1},
        {"messages": [turns[0], {"role": "assistant", "tool_calls": [call]}]},
        {"messages": [turns[0], {"role": "assistant", "content": "a b", "reasoning_content": "r"}]},
    ]
    folder = write(train=train)
    tokenizer = tokenizer_of("Phi 3")
    check = check_folder(folder, tokenizer=tokenizer)
    split = check.tasks[0].splits["train"]
    (reason,) = split.broken
    assert reason.startswith("t/train.json, row 2: the chat template leaves out some or all of the answer")
    assert split.tokens is not None
    whole = encode_all([parse_row(train[0], ""), parse_row(train[2], "")], tokenizer, None)
    assert split.tokens.answers.longest == max(sum(label >= 0 for label in one.labels) for one in whole)
    del train[1]
    notes = check_folder(write(train=train), tokenizer=tokenizer).tasks[0].splits["train"].notes
    assert notes == ["ignored of the rows, as nothing reads it: id, reasoning_content"]
    assert f"t, train: {notes[0]}" in list(findings(check_folder(folder, tokenizer=tokenizer)))


def test_test_rows_of_several_turns_say_that_the_last_alone_is_scored(write: Write) -> None:
    """Trained turns are all counted; a turn that is marked as context could not be scored, and is not counted."""
    ask, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    rows: list[object] = [
        {"messages": [ask, answer]},
        {"messages": [ask, answer, ask, answer]},
        {"messages": [ask, {**answer, "weight": 0}, ask, answer]},
    ]
    check = check_folder(write(train=rows, test=rows))
    said = "1 of 3 rows hold several assistant turns: the last alone is asked and scored"
    assert [said in line for line in findings(check) if "assistant turns" in line] == [True]
    assert not any("assistant turns" in note for note in check.tasks[0].splits["train"].notes)
