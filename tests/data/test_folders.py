"""Folders of rows: which files belong to a split, what is ambiguous, and that strings stay strings in each kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from seekr.data.folders import split_file, splits_of_folder
from seekr.data.reading import read_split, task_from_folder
from seekr.data.task import Task
from seekr.errors import InputError


def put(folder: Path, *names: str) -> Path:
    """Files whose one row has the file's path as its answer."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": "?", "answer": name}
        content = (
            f"prompt,answer\n?,{name}\n" if ".csv" in name else json.dumps([row] if ".json" in path.suffixes else row)
        )
        path.write_bytes(gzip.compress(content.encode(), mtime=0) if path.suffix == ".gz" else content.encode())
    return folder


def answers(folder: Path, split: str = "train") -> list[str]:
    task = Task("t", **{"train": folder, split: folder})  # type: ignore[arg-type]
    return [example.answer for example in read_split(task, split, seed=0)]  # type: ignore[arg-type]


def refused(folder: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as error:
        answers(folder, split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ["train.json", "test.csv", "dev.jsonl.gz"],
        ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-0.jsonl", "validation_0.jsonl"],
        ["data/train-0.jsonl", "data/train-1.csv", "data/test.jsonl", "data/my_valid.jsonl"],
        ["train-0.jsonl", "train-1.csv", "test.json", "dev_part1.jsonl"],
        ["train/part-0.jsonl", "train/part-1.jsonl", "testing/part-0.jsonl", "val/part-0.jsonl"],
        ["data/train/a.jsonl", "data/train/b.jsonl.gz", "test-x.jsonl", "dev/x.csv"],
    ],
)
def test_files_say_their_split(tmp_path: Path, names: list[str]) -> None:
    folder = put(tmp_path / "rows", *names)
    for split, words in (("train", ("train",)), ("test", ("test",)), ("eval", ("dev", "val"))):
        expected = sorted(name for name in names if any(word in name for word in words))
        if expected:
            assert answers(folder, split) == expected
            assert split in splits_of_folder(folder)
    task = task_from_folder("t", folder)
    assert [example.answer for example in read_split(task, "train", seed=0)] == answers(folder)


def test_files_that_name_no_split_are_the_rows_of_the_one_that_is_asked_for(tmp_path: Path) -> None:
    folder = put(tmp_path, "part-1.jsonl", "part-0.jsonl.gz", "part-2.csv", ".hidden.jsonl", "dataset_infos.json")
    for split in ("train", "test", "eval"):
        assert answers(folder, split) == ["part-0.jsonl.gz", "part-1.jsonl", "part-2.csv"]
    task = task_from_folder("t", folder)
    assert (task.train, task.test) == (folder, None)


def test_strings_of_shards_stay_strings(tmp_path: Path) -> None:
    """The loader of the datasets library made `2024-01-05 00:00:00` of the date, and trained on it."""
    for place, answer in enumerate(["0228", "2024-01-05", "2024-01-05 00:00:00", "1e3"]):
        (tmp_path / f"part-{place}.jsonl").write_text(json.dumps({"prompt": "?", "answer": answer}))
    assert answers(tmp_path) == ["0228", "2024-01-05", "2024-01-05 00:00:00", "1e3"]
    csv = tmp_path / "more"
    csv.mkdir()
    (csv / "part-0.csv").write_text("prompt,answer\n?,0228\n?,2024-01-05\n?,NA\n")
    assert answers(csv) == ["0228", "2024-01-05", "NA"]


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_strings_of_a_data_set_laid_out_as_on_the_hub_stay_strings(tmp_path: Path, kind: str) -> None:
    """A README that says which files are which split is read by the library, the files are not."""
    said = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: rows/a.*\n"
    (tmp_path / "README.md").write_text(f"---\n{said}  - split: test\n    path: rows/b.*\n---\nAbout it.\n")
    (tmp_path / "rows").mkdir()
    for name, answer in (("a", "2024-01-05"), ("b", "0228")):
        lines = {"json": json.dumps({"prompt": "?", "answer": answer}), "csv": f"prompt,answer\n?,{answer}\n"}
        (tmp_path / "rows" / f"{name}.{kind}").write_text(lines[kind])
    assert (answers(tmp_path), answers(tmp_path, "test")) == (["2024-01-05"], ["0228"])
    assert "no split 'eval', only train, test" in refused(tmp_path, "eval")
    assert task_from_folder("t", tmp_path).test == tmp_path


def test_files_of_the_hub_are_fetched_and_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a .json file holds one row a line, which the library takes."""
    (tmp_path / "x.json").write_text('{"prompt": "?", "answer": "2024-01-05"}\n{"prompt": "?", "answer": "007"}\n')
    config = SimpleNamespace(data_files={"train": [str(tmp_path / "x.json")]})
    builder = SimpleNamespace(name="json", base_path=None, config=config)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: builder)
    monkeypatch.chdir(tmp_path)
    found = read_split(Task("t", train="owner/name"), "train", seed=0)
    assert [example.answer for example in found] == ["2024-01-05", "007"]
    (tmp_path / "x.json").unlink()
    with pytest.raises(InputError, match=r"owner/name.*x\.json") as error:
        read_split(Task("t", train="owner/name"), "train", seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train.json", "train.jsonl"], "holds train.json and train.jsonl, and only one of them can be train"),
        (["train.json", "train.jsonl.gz"], "holds train.json and train.jsonl.gz, and only one"),
        (["part-0.jsonl", "part-0.csv"], "holds part-0.csv and part-0.jsonl, which may be the same rows twice"),
        (["train-0.jsonl", "extra.jsonl"], "extra.jsonl is not named for a split, and other files here are"),
        (["part-0.jsonl", "part-1.jsonl.zst"], "part-1.jsonl.zst cannot be read with the other files"),
        (["test.json"], "no train.json, train.jsonl or other train rows here, only test"),
        (["a/train.json", "b/train.json"], "its rows lie deeper, such as a/train.json; give the file, or the folder"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, names: list[str], told: str) -> None:
    assert told in refused(put(tmp_path / "rows", *names))


def test_a_doubled_split_is_no_matter_of_the_others(tmp_path: Path) -> None:
    folder = put(tmp_path / "rows", "train.json", "test.json", "test.jsonl")
    assert answers(folder) == ["train.json"]
    assert "can be test" in refused(folder, "test")
    with pytest.raises(InputError, match="can be test"):
        task_from_folder("t", folder)
    with pytest.raises(InputError, match="can be test"):
        split_file(folder, "test")


def test_an_exact_name_is_the_split_whatever_lies_beside_it(tmp_path: Path) -> None:
    folder = put(tmp_path / "rows", "train.json", "train_small.json", "notes.json", "test-answers.json")
    assert answers(folder) == ["train.json"]
    assert splits_of_folder(folder) == ["train"]
    assert "or other test rows here, only train" in refused(folder, "test")


@pytest.mark.parametrize("names", [["train.jsonl", "train-0.jsonl"], ["train.json", "train-00000-of-00001.csv"]])
def test_shards_beside_a_file_of_their_split_are_not_left_out_without_a_word(tmp_path: Path, names: list[str]) -> None:
    folder = put(tmp_path / "rows", *names, "test.jsonl")
    assert f"holds {names[0]} and {names[1]}, which may be the same rows twice" in refused(folder)
    with pytest.raises(InputError, match="the same rows twice"):
        task_from_folder("t", folder)
    assert answers(folder, "test") == ["test.jsonl"]


@pytest.mark.parametrize("name", ["TEST.jsonl", "Testing.csv", "val.json", "Val.jsonl.gz", "evaluation.json"])
def test_a_split_beside_others_is_found_by_any_of_its_names_in_any_case(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "rows", "train.jsonl", name)
    split = "test" if name.lower().startswith("test") else "eval"
    assert splits_of_folder(folder) == ["train", split]
    assert Path(str(getattr(task_from_folder("t", folder), split))).name == name
