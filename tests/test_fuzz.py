"""Rows, files and configurations as no person would write them: an answer or one line, never a traceback or a hang."""

from __future__ import annotations

import copy
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from fuzzing import EDIT, KEYS, TEXT, VALUE, edited, few, many, one_line_or_an_answer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from seekr.cli.main import main
from seekr.config.schema import apply_override, load_config, make_tasks
from seekr.data.checking import check_folder
from seekr.data.reading import read_split, task_from_folder
from seekr.data.task import Task
from seekr.data.task_data import read_task
from seekr.errors import InputError, say
from seekr.methods import make_method
from seekr.modeling.loading import load_config_of
from seekr.runs.prepare import check_settings

TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | VALUE, "content": VALUE | TEXT}
)
ROW = (
    VALUE
    | st.dictionaries(KEYS | TEXT, VALUE, max_size=4)
    | st.fixed_dictionaries(
        {"prompt": TEXT, "answer": TEXT | st.lists(TEXT, max_size=3)}, optional={"references": VALUE}
    )
    | st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)}, optional={"references": VALUE, "tools": VALUE})
)


@pytest.fixture(scope="session")
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    found = AutoTokenizer.from_pretrained(tiny_model_folder)
    found.chat_template = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"
    return found  # type: ignore[no-any-return]


def fuzz_rows(rows: list[Any], tokenizer: PreTrainedTokenizerBase, **fields: Any) -> None:
    with one_line_or_an_answer():
        read_task(Task("t", train=rows, test=rows, **fields), tokenizer, 40, seed=0)


ROWS = {
    "rows": st.lists(ROW, min_size=1, max_size=3),
    "answers": st.sampled_from(["all", "last"]),
    "separator": st.sampled_from(["", " "]),
    "new_tokens": st.sampled_from([None, 1, 39, 40, 10**6]),
}


@few
@given(**ROWS)
def test_rows(tokenizer: Any, rows: Any, answers: Any, separator: Any, new_tokens: Any) -> None:
    fuzz_rows(rows, tokenizer, answers=answers, separator=separator, max_new_tokens=new_tokens)


@many
@given(**ROWS)
def test_many_rows(tokenizer: Any, rows: Any, answers: Any, separator: Any, new_tokens: Any) -> None:
    fuzz_rows(rows, tokenizer, answers=answers, separator=separator, max_new_tokens=new_tokens)


def _parquet(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({key: [row[key] for row in rows] for key in rows[0]}), out)
    return out.getvalue()


GOOD = [{"prompt": "a, b", "answer": "c\n"}, {"prompt": '"', "answer": "é"}]
CONTENT = {
    ".json": json.dumps(GOOD).encode(),
    ".jsonl": "\n".join(map(json.dumps, GOOD)).encode(),
    ".csv": b'prompt,answer\r\n"a, b",c\r\n"""","two\nlines"\r\n',
    ".tsv": b"prompt\tanswer\na\tb\n",
    ".parquet": _parquet(GOOD),
    ".txt": b"a",
}
NAME = st.sampled_from(
    ["train", "test", "part-0", "part-1", "dev", "x/y", "data/train-0", "train/a", "data/test/b", "README", "a b", ".t"]
)
FILES = {
    "files": st.lists(
        st.tuples(NAME, st.sampled_from(sorted(CONTENT)), st.booleans(), st.lists(EDIT, max_size=3)),
        min_size=1,
        max_size=4,
    )
}


def put_files(folder: Path, files: list[Any]) -> list[Path]:
    paths = []
    for name, suffix, packed, edits in files:
        data = edited(CONTENT[suffix], edits)
        path = folder / f"{name}{suffix}{'.gz' if packed else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, 1, mtime=0) if packed and len(edits) % 2 == 0 else data)
        paths.append(path)
    return paths


def fuzz_files(folder: Path, files: list[Any]) -> None:
    for path in [*put_files(folder, files), folder, folder / "nowhere"]:
        for split in ("train", "test"):
            with one_line_or_an_answer():
                read_split(Task("t", train=path, test=path), split, seed=0)  # type: ignore[arg-type]
    with one_line_or_an_answer():
        task_from_folder("t", folder)
    with one_line_or_an_answer():
        check = check_folder(folder)
        for reasons in (split.broken for task in check.tasks for split in task.splits.values()):
            assert all(reason.isprintable() and len(reason) <= 600 for reason in reasons)


@few
@given(**FILES)
def test_files(tmp_path_factory: Any, files: Any) -> None:
    fuzz_files(tmp_path_factory.mktemp("files"), files)


@many
@given(**FILES)
def test_many_files(tmp_path_factory: Any, files: Any) -> None:
    fuzz_files(tmp_path_factory.mktemp("files"), files)


CONFIG: dict[str, Any] = {
    "model": "model",
    "tasks": [{"name": "a", "train": "a.json", "test": "a.json", "max_new_tokens": 3}],
    "method": {"name": "seekr", "replay_ratio": 0.1},
    "training": {"learning_rate": 1e-3, "per_device_train_batch_size": 2, "save_strategy": "steps"},
    "lora": {"r": 2, "target_modules": ["q_proj"]},
    "output_dir": "run",
    "seed": 0,
}
WORDS = st.sampled_from(
    [
        "model", "tasks", "method", "training", "lora", "dtype", "max_length", "cells", "seeds", "keep_stages", "vllm",
        "general", "name", "train", "metric", "answers", "learn", "test_limit", "preset", "data", "only", "head_budget",
        "optim", "lr_scheduler_type", "warmup_steps", "max_steps", "bf16", "report_to", "gradient_checkpointing_kwargs",
        "fsdp", "deepspeed", "lora_alpha", "bias", "init_lora_weights", "max_seq_length", "evaluation_strategy",
        "lora_target", "lr_scheduler_kwargs", "optim_args", "accelerator_config", "log_level", "eval_strategy", "debug",
        "use_cpu",
    ]
)  # fmt: skip
GIVEN = VALUE | st.sampled_from(
    ["seekr", "joint", "all", "adamw_torch", 10**30, -1, 0.5, 1e400, "1e-5", True, [], {}, "../x"]
)
PLACE = st.sampled_from(
    [("",), ("tasks", 0), ("tasks",), ("method",), ("training",), ("lora",), ("training", "lr_scheduler_kwargs")]
)
CHANGE = st.tuples(PLACE, WORDS | TEXT, GIVEN)
CONFIGS = {
    "changes": st.lists(CHANGE, min_size=1, max_size=3),
    "edits": st.lists(EDIT, max_size=1),
    "override": st.none() | st.tuples(WORDS | TEXT, TEXT).map("=".join) | st.just("tasks.0.train_limit=x"),
}


def changed(changes: list[Any]) -> Any:
    config = copy.deepcopy(CONFIG)
    for place, key, value in changes:
        target: Any = config
        for part in place:
            if part != "":
                try:
                    target = target[part]
                except (KeyError, IndexError, TypeError):
                    break
        if isinstance(target, dict):
            target[key] = value
        elif isinstance(target, list):
            target.append(value)
    return config


def fuzz_configuration(folder: Path, changes: list[Any], edits: list[Any], override: str | None) -> None:
    try:
        data = yaml.safe_dump(changed(changes), allow_unicode=True).encode()
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    path = folder / "c.yaml"
    path.write_bytes(edited(data, edits))
    (folder / "a.json").write_text('[{"prompt": "a", "answer": "b"}]')
    with one_line_or_an_answer():
        config = load_config(path, [] if override is None else [override])
        tasks = make_tasks(config)
        check_settings(config, make_method(config.method), tasks, config.training)
        for task in tasks:
            if not isinstance(task.train, str) or "/" not in task.train or task.train.startswith("/"):  # not of the hub
                read_split(task, "train", seed=0)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configurations")


@few
@given(**CONFIGS)
def test_configurations(place: Path, changes: Any, edits: Any, override: Any) -> None:
    fuzz_configuration(place, changes, edits, override)


@many
@given(**CONFIGS)
def test_many_configurations(place: Path, changes: Any, edits: Any, override: Any) -> None:
    fuzz_configuration(place, changes, edits, override)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 2100, "a\0b", "~nobody-of-this-name/x", "\ud83d"])
def test_names_that_no_file_can_have(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were tracebacks, or failures of the machine by their exit status."""
    monkeypatch.chdir(place)
    rows = [{"prompt": "a", "answer": "b"}]
    for ask in (
        lambda: read_split(Task("t", train=name), "train", seed=0),
        lambda: read_split(Task("t", train=rows, chat_template=name), "train", seed=0),
        lambda: task_from_folder("t", name),
        lambda: load_config_of(name),
        lambda: load_config(name),
    ):
        with pytest.raises(InputError, match="no file or folder can have this name"):
            ask()
    for words in (
        ["learn", name],
        ["status", name],
        ["tasks", "check", name],
        ["learn", "--from", name, "--task", "a=b"],
    ):
        assert main(words) == 2
    for key in ("model", "output_dir", "tasks"):
        value = [{"name": "a", "train": name}] if key == "tasks" else name
        (place / "c.yaml").write_text(json.dumps({**CONFIG, key: value}))
        with pytest.raises(InputError, match=r"no file or folder can have this name|unable to parse raw data"):
            load_config(place / "c.yaml")


def test_a_message_is_one_line_of_bounded_length() -> None:
    message = str(InputError("begin " + "\n\x1b[31m x " * 500 + " end"))
    assert message.startswith("begin ")
    assert message.endswith(" end")
    assert message.isprintable()
    assert len(message) < 600
    with pytest.raises(InputError):
        apply_override({}, "x" * 5000)


def test_what_is_said_on_the_way_has_the_length_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The missing answers of 14 tasks were named in 610 characters."""
    say(f"predictions: {', '.join(f'{row}-{task}' for row in range(14) for task in range(14))}\n: end")
    assert len(said := capsys.readouterr().err) <= 600
    assert said.startswith("seekr: predictions: 0-0, ")
    assert said.endswith(" : end\n")
    assert said.count("\n") == 1
    message = str(InputError("x" * 1000))
    say(f"error: {message}")
    assert len(said := capsys.readouterr().err) <= 600
    assert said.count("…") == 1
