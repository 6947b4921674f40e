"""Rows from every place that they are kept in, and one clear line for every mistake."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from seekr.data.example import Example
from seekr.data.reading import read_split, task_from_folder
from seekr.data.task import Task, check_tasks
from seekr.errors import InputError

ROWS = [{"prompt": f"ask {i}", "answer": f"say {i}"} for i in range(12)]


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(source: object, split: str = "train", **fields: object) -> list[Example]:
    task = Task("t", **{"train": ROWS, split: source, **fields})  # type: ignore[arg-type]
    return read_split(task, split, seed=0)  # type: ignore[arg-type]


def pairs(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.prompt_text, example.answer) for example in examples]


EXPECTED = [(row["prompt"], row["answer"]) for row in ROWS]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    write(tmp_path / "trace" / "train.json", ROWS)
    write(tmp_path / "lines" / "train.jsonl", "\ufeff" + lines(ROWS) + "\n\n")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "validation": saved.select([1]), "test": saved.select([0])}).save_to_disk(
        str(tmp_path / "dict")
    )
    saved.to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"))
    sources = [ROWS, *(tmp_path / name for name in ("trace", "trace/train.json", "lines", "one", "dict", "hub"))]
    for source in sources:
        assert pairs(read(source)) == EXPECTED, source
        assert pairs(read(str(source) if isinstance(source, Path) else source)) == EXPECTED
    assert pairs(read(tmp_path / "dict", "test")) == EXPECTED[:1]
    assert pairs(read(tmp_path / "dict", "eval")) == EXPECTED[1:2]
    assert pairs(read(tmp_path / "one", "test")) == EXPECTED


class FakeBuilder:
    """What the datasets library says of a data set of the hub before it reads any row."""

    base_path = None

    def __init__(self, name: str, files: dict[str, list[str]]) -> None:
        self.name = name
        self.config = SimpleNamespace(data_files=files)


def test_hub_name_goes_to_load_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def load_dataset(name: str, configuration: str | None) -> datasets.DatasetDict:
        asked.append((name, configuration))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: FakeBuilder("parquet", {}))
    monkeypatch.chdir(tmp_path)
    assert pairs(read("owner/name")) == EXPECTED
    assert pairs(read("owner/name:main")) == EXPECTED
    assert asked == [("owner/name", None), ("owner/name", "main")]
    with pytest.raises(InputError, match="no split 'test', only train"):
        read("owner/name", "test")


def test_a_name_that_the_hub_does_not_know_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset_builder(name: str, configuration: str | None) -> None:
        raise ConnectionError("cannot reach it\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr("seekr.data.hub._unreachable", lambda: None)  # with a network and without one
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"owner/nothing: no such file or folder, .*: cannot reach it$") as error:
        read("owner/nothing")
    assert "\n" not in str(error.value)


def test_relative_paths_start_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "train.json", ROWS)
    monkeypatch.chdir(tmp_path)
    assert pairs(read_split(Task("t", train="a/train.json"), "train", seed=0)) == EXPECTED


def test_row_forms() -> None:
    several = read([{"prompt": "q", "answer": ["a", "b"], "id": 7}])[0]
    assert (several.answer, several.references) == ("a", ["a", "b"])
    apart = read([{"prompt": "q", "completion": " a", "references": ["x", "y"]}])[0]
    assert (apart.answer, apart.references) == (" a", ["x", "y"])
    only = read([{"prompt": "q", "references": ["x", "y"]}])[0]
    assert (only.answer, only.references) == ("x", ["x", "y"])
    turns = [{"role": "user", "content": "q", "name": None}, {"role": "assistant", "content": "a"}]
    chat = read([{"messages": turns}], answers="last")[0]
    assert (chat.prompt_text, chat.answer, chat.references, chat.trained) == ("user: q", "a", ["a"], (1,))
    assert chat.messages[0] == {"role": "user", "content": "q"}
    assert read([{"prompt": "q", "answer": ""}])[0].answer == ""
    assert read([{"prompt": "q", "answer": "a"}], separator="")[0].separator == ""


def test_limits_draw_from_the_seeds_shuffle() -> None:
    task = Task("t", train=ROWS, test=ROWS, eval=ROWS, train_limit=5, test_limit=4)
    drawn = pairs(read_split(task, "train", seed=3))
    assert len(drawn) == len(set(drawn)) == 5
    assert set(drawn) < set(EXPECTED)
    assert drawn == pairs(read_split(task, "train", seed=3))
    assert drawn != pairs(read_split(task, "train", seed=4))
    assert drawn[:4] != pairs(read_split(task, "test", seed=3))
    assert pairs(read_split(task, "eval", seed=3)) != pairs(read_split(task, "test", seed=3))
    other = Task("u", train=ROWS, train_limit=5)
    assert drawn != pairs(read_split(other, "train", seed=3))
    more = Task("t", train=ROWS, train_limit=7)
    assert pairs(read_split(more, "train", seed=3))[:5] == drawn
    for limit in (None, len(ROWS), 99):
        assert pairs(read_split(Task("t", train=ROWS, train_limit=limit), "train", seed=3)) == EXPECTED


BROKEN_LINES = lines(ROWS[:2]) + '{"prompt": "x", "answer"\n'
ROW_MISTAKES = [
    ({"prompt": "x"}, "'answer' is missing (or 'completion'); the row has prompt"),
    ({"answer": "x"}, "'prompt' is missing"),
    ({"prompt": None, "answer": "x"}, "'prompt' is missing (or 'messages'); the row has prompt (null), answer"),
    ({"prompt": "x", "answer": None}, "'answer' is missing"),
    ({"prompt": 7, "answer": "x"}, "'prompt' must be a string, not int '7'"),
    ({"prompt": "x", "answer": 7}, "'answer' must be a string"),
    ({"prompt": "x", "answer": []}, "'answer' is an empty list"),
    ({"prompt": "x", "answer": ["a", 1]}, "'answer' must be a string or a list of strings"),
    ({"prompt": "x", "answer": "y", "references": {}}, "'references' must be"),
    ({"prompt": " \n", "answer": "x"}, "'prompt' is blank"),
    ("text", "a row must be an object"),
    ({"messages": "hi"}, "'messages' must be a list"),
    ({"messages": ["hi"]}, "messages[0] must be an object"),
    ({"messages": [{"role": "user", "content": "x"}]}, "'messages' has no turn of role 'assistant'"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "'messages' has nothing before its answer"),
    ({"messages": [{"role": "user"}]}, "'content' of messages[0] is missing"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "'content' of messages[0] has a part of type 'image'",
    ),
]


@pytest.mark.parametrize(("row", "message"), ROW_MISTAKES)
def test_a_bad_row_is_named_by_file_and_number(tmp_path: Path, row: object, message: str) -> None:
    listed = write(tmp_path / "rows.json", [*ROWS[:2], row])
    lined = write(tmp_path / "rows.jsonl", lines(ROWS[:2]) + "\n" + json.dumps(row))
    for source, place in ((listed, "rows.json, row 3: "), (lined, "rows.jsonl, row 3 (line 4): ")):
        with pytest.raises(InputError) as error:
            read(source, train_limit=1)
        assert place + message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[\n{"prompt": "x",\n"answer" "y"}]', "a.json, line 3: broken JSON: Expecting ':'"),
        ("a.json", "", "a.json, line 1: broken JSON"),
        ("a.json", lines(ROWS), "line 2: broken JSON: Extra data (column 1); if it has one row a line, name it .jsonl"),
        ("a.json", "{}", "a .json file must hold one list of rows, not dict"),
        ("a.json", "[" * 200_000, "broken JSON: "),
        ("a.jsonl", BROKEN_LINES, "a.jsonl, line 3: broken JSON"),
        ("a.json", "[]", "there are no rows"),
        ("a.jsonl", "\n", "there are no rows"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(write(tmp_path / name, content))
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


HALF = "Tom \ude00 ran"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": f"One {HALF}", "answer": "x"}, "prompt"),
        ({"prompt": "x", "answer": HALF}, "answer"),
        ({"prompt": "x", "answer": "y", "references": ["z", HALF]}, "references[1]"),
        (
            {"messages": [{"role": "user", "content": HALF}, {"role": "assistant", "content": "y"}]},
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": HALF}]},
            "messages[1].content",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "test", "eval"])
def test_half_a_character_is_named_in_every_split(
    tmp_path: Path, row: dict[str, object], named: str, split: str
) -> None:
    """Tokenizers and files gave tracebacks for it, one of them behind the training and on every later start."""
    path = write(tmp_path / "rows.jsonl", json.dumps(ROWS[0]) + "\n" + json.dumps(row))
    with pytest.raises(InputError) as error:
        read(path, split)
    assert f"rows.jsonl, row 2 (line 2): {named} holds half of a character (\\ude00, character" in str(error.value)
    str(error.value).encode()


def test_whole_characters_beyond_the_basic_plane_are_read(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "\U0001f600", "answer": "\U0001f600"})
    assert "\\ud83d" in row
    assert read(write(tmp_path / "rows.jsonl", row))[0].answer == "\U0001f600"
    assert read([{"prompt": "x", "answer": "y", "id": HALF}])[0].answer == "y"  # of what is not used nothing is said


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes("[ü]".encode("latin-1"))
    with pytest.raises(InputError, match=r"a.json: not UTF-8 text \(byte 1\)"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("source", ["no/train.json", "./nothing", "nothing", "a/b/c", Path("nothing")])
def test_what_is_not_there(source: str | Path) -> None:
    with pytest.raises(InputError, match=r"task 't', train: .*: no such file or folder"):
        read(source)


def test_folders_that_hold_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.json", ROWS)
    with pytest.raises(InputError, match=r"a: no test.json, test.jsonl or other test rows here, only train"):
        read(tmp_path / "a", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no train.json or train.jsonl, .*, and no data set"):
        read(tmp_path / "empty")
    write(tmp_path / "torn" / "dataset_info.json", "{")
    with pytest.raises(InputError, match="torn: the saved data set cannot be loaded"):
        read(tmp_path / "torn")
    with pytest.raises(InputError, match="task 't' has no test rows"):
        read_split(Task("t", train=ROWS), "test", seed=0)
    with pytest.raises(InputError, match="task 't', train: there are no rows"):
        read([])


def test_task_from_a_folder_or_file(tmp_path: Path) -> None:
    folder = tmp_path / "sorting"
    write(folder / "train.json", ROWS)
    write(folder / "validation.jsonl", lines(ROWS[:2]))
    task = task_from_folder("sort", folder, max_new_tokens=5)
    assert (task.train, task.eval, task.test) == (folder / "train.json", folder / "validation.jsonl", None)
    assert task.max_new_tokens == 5
    assert task_from_folder("sort", str(folder / "train.json")).train == folder / "train.json"
    assert task_from_folder("sort", folder, test=ROWS).test == ROWS
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "saved"))
    saved = task_from_folder("sort", tmp_path / "saved")
    assert (saved.train, saved.test) == (tmp_path / "saved", None)
    write(tmp_path / "half" / "test.json", ROWS)
    with pytest.raises(InputError, match="half: the folder has no training rows"):
        task_from_folder("sort", tmp_path / "half")
    with pytest.raises(InputError, match="no such file or folder"):
        task_from_folder("sort", tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b", "ä", "a\n", "..", "a\\b", None])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(InputError, match="task name"):
        Task(name, train=ROWS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "accurcy"}, "unknown metric 'accurcy'; did you mean 'accuracy'?"),
        ({"metric": "rougeL"}, "did you mean 'rouge_l'?"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, not '0'"),
        ({"max_new_tokens": "null"}, "max_new_tokens must be"),
        ({"max_new_tokens": True}, "max_new_tokens must be"),
        ({"train_limit": -1}, "train_limit must be"),
        ({"test_limit": 2.5}, "test_limit must be"),
        ({"num_train_epochs": 0}, "num_train_epochs must be a number above 0"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs must be"),
        ({"learn": "no"}, "learn must be true or false"),
        ({"answers": "first"}, "answers must be 'all' or 'last'"),
        ({"separator": "\n"}, "separator must be one space or empty"),
        ({"train": None}, "train must be a file"),
        ({"test": 3}, "test must be a file"),
    ],
)
def test_values_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        Task(**{"name": "t", "train": ROWS, **fields})  # type: ignore[arg-type]
    assert str(error.value).startswith("task 't': ")
    assert message in str(error.value)


def test_names_come_once() -> None:
    first, second = Task("one", train=ROWS), Task("One", train=ROWS)
    check_tasks([first, Task("two", train=ROWS)])
    with pytest.raises(InputError, match="'One' \\(next to 'one'\\) comes twice"):
        check_tasks([first, second])
    with pytest.raises(InputError, match="'one' comes twice"):
        check_tasks([first, first])
    with pytest.raises(InputError, match="the list is empty"):
        check_tasks([])


def test_real_folders(shared: Path) -> None:
    for folder in (shared / "data" / "superni").iterdir():
        if folder.is_dir():
            task = task_from_folder(folder.name, folder)
            for split in ("train", "eval", "test"):
                assert all(example.answer is not None for example in read_split(task, split, seed=0))  # type: ignore[arg-type]
    task511 = task_from_folder("task511", shared / "data" / "superni" / "task511")
    assert sum(not example.answer for example in read_split(task511, "train", seed=0)) == 6
    trace = task_from_folder("C-STANCE", shared / "data" / "trace_500" / "C-STANCE")
    assert (len(read_split(trace, "train", seed=0)), len(read_split(trace, "test", seed=0))) == (500, 100)
