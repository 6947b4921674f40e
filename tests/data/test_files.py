"""Files of rows: the same rows from every format, every string as it was written, and one clear line for each fault."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr.data.files import FORMATS, format_of, rows_of_bytes, rows_of_file, stem_of
from seekr.errors import InputError

Rows = list[dict[str, str]]

GUESSED = ["2024-01-05", "2024-01-05 00:00:00", "0228", "1e3", "NaN", "null", "true", "", " ", "1,5", '"', "a\nb", "=1"]
"""What readers that guess take for dates, numbers and the like."""


def as_json(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    columns = {key: pyarrow.array([row[key] for row in rows], pyarrow.string()) for key in ("prompt", "answer")}
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".json": as_json,
    ".jsonl": as_lines,
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".parquet": as_parquet,
}


def values(data: bytes, name: str) -> list[Any]:
    return [row for _, row in rows_of_bytes(data, name)]


def fault(data: bytes | str, name: str) -> str:
    """What is said of the first fault of a file."""
    try:
        rows = list(rows_of_bytes(data if isinstance(data, bytes) else data.encode(), name))
    except InputError as error:
        return str(error)
    return next(str(row) for _, row in rows if isinstance(row, InputError))


def test_every_format_is_tried() -> None:
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
@given(cells=st.lists(st.tuples(*[st.text() | st.sampled_from(GUESSED)] * 2), max_size=5))
def test_strings_are_what_was_written(suffix: str, packed: bool, cells: list[tuple[str, str]]) -> None:
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in cells]
    data = WRITERS[suffix](rows)
    name = f"rows{suffix}.gz" if packed else f"rows{suffix}"
    assert values(gzip.compress(data, mtime=0) if packed else data, name) == rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_row_says_where_it_stands(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"rows{suffix}").write_bytes(WRITERS[suffix]([{"prompt": "a", "answer": "b"}] * 3))
    places = [where for where, _ in rows_of_file(tmp_path / f"rows{suffix}")]
    assert [where.split(",")[0] for where in places] == [str(tmp_path / f"rows{suffix}")] * 3
    assert [where.split(", ")[1].split(" (")[0] for where in places] == ["row 1", "row 2", "row 3"]


def test_lines_of_a_separated_file_are_those_of_the_editor() -> None:
    data = b'prompt,answer\r\n"two\r\nlines",x\r\n\r\na,b\r\n'
    assert [where for where, _ in rows_of_bytes(data, "t.csv")] == ["t.csv, row 1 (line 3)", "t.csv, row 2 (line 5)"]


def test_empty_cells_are_empty_answers_and_else_no_key_at_all() -> None:
    assert values(b"prompt,answer,references\na,,\nb,c,d\n", "t.csv") == [
        {"prompt": "a", "answer": ""},
        {"prompt": "b", "answer": "c", "references": "d"},
    ]


def test_several_right_answers_and_turns_in_a_cell_are_read_from_their_json() -> None:
    """They were one right answer, which reads '["a", "b"]' and none could give."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def read(column: str, cell: str) -> Any:
        quoted = cell.replace('"', '""')
        return values(f'prompt,{column}\nq,"{quoted}"\n'.encode(), "t.csv")[0][column]

    assert read("references", '["a", "b"]') == ["a", "b"]
    assert read("messages", json.dumps(turns)) == read("conversations", json.dumps(turns)) == turns
    assert read("answer", '["a", "b"]') == '["a", "b"]'
    for text in ("[a]", "[1, 2]", "a", "[", '{"a": 1}'):
        assert read("references", text) == text


def test_an_empty_output_of_a_separated_file_is_an_empty_answer() -> None:
    (row,) = values(b"instruction,input,output\nSay.,,\n", "t.csv")
    assert row == {"instruction": "Say.", "output": ""}


def test_a_cell_may_be_longer_than_pythons_limit() -> None:
    assert len(values(as_csv([{"prompt": "x" * 200_000, "answer": "y"}]), "t.csv")[0]["prompt"]) == 200_000
    assert csv.field_size_limit() == 131_072


def test_a_parquet_files_dates_are_no_strings() -> None:
    table = pyarrow.table({"prompt": ["a"], "answer": pyarrow.array([0], pyarrow.timestamp("s"))})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    (row,) = values(out.getvalue(), "t.parquet")
    assert not isinstance(row["answer"], str)  # parse_row refuses it by name


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("train.json", ".json", "train"),
        ("a/b/train.jsonl.gz", ".jsonl", "train"),
        ("TRAIN.CSV", ".csv", "TRAIN"),
        ("rows.gz", None, "rows"),
        ("rows.tar.gz", None, "rows"),
        ("rows.txt", None, "rows"),
        ("v1.2.parquet", ".parquet", "v1.2"),
    ],
)
def test_the_name_says_the_format(name: str, suffix: str | None, stem: str) -> None:
    assert (format_of(name), stem_of(name)) == (suffix, stem)


def twice_named() -> bytes:
    cells = [pyarrow.array([text]) for text in "abc"]
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(cells, ["prompt", "answer", "answer"]), out)
    return out.getvalue()


def beside(column: pyarrow.Array) -> bytes:
    """A Parquet file with this column beside those of a row."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "answer": ["b"], "more": column}), out)
    return out.getvalue()


NO_ZONE = pyarrow.array([0], pyarrow.timestamp("us", tz="Mars/Olympus"))
NO_TEXT = pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"]).buffers())
TWICE = pyarrow.StructArray.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], names=["k", "k"])
DEEP = pyarrow.StructArray.from_arrays([pyarrow.ListArray.from_arrays(pyarrow.array([0, 1]), TWICE)], names=["turns"])


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (NO_ZONE, "the column 'more' holds what is no timestamp[us, tz=Mars/Olympus] in Python; save it as text"),
        (NO_TEXT, "the column 'more' holds text that is not UTF-8; "),
        (TWICE, "the key 'k' is given twice in the objects of the column 'more'"),
        (DEEP, "the key 'k' is given twice in the objects of the column 'more'"),
    ],
)
def test_a_whole_parquet_file_was_called_torn(column: pyarrow.Array, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"t.parquet: {told}")):
        list(rows_of_bytes(beside(column), "t.parquet"))


ROW = '{"prompt": "a", "answer": "b"}'
PRETTY = json.dumps(json.loads(ROW), indent=2)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("t.jsonl", f"[{ROW}, {ROW}]", "t.jsonl: begins with '[', so it is one list of rows"),
        ("t.jsonl", f"[\n{ROW},\n{ROW}\n]", "begins with '[', so it is one list of rows"),
        ("t.jsonl", f"[\n{ROW},\n{ROW},\n]", "begins with '['"),
        ("t.jsonl", PRETTY, "t.jsonl, lines 1 to 4: one row goes over several lines (pretty-printed JSON)"),
        ("t.jsonl", f"{ROW}\n\n  {PRETTY}\n{ROW}", "t.jsonl, lines 3 to 6: one row goes over several lines"),
        ("t.jsonl", f"{ROW},\n{ROW}", "t.jsonl, line 1: a comma follows the row"),
        ("t.jsonl", f"{ROW}\n{ROW}, \n", "t.jsonl, line 2: a comma follows the row"),
        ("t.jsonl", f"{ROW} {ROW}", "t.jsonl, line 1: broken JSON: Extra data"),
        ("t.jsonl", f'{ROW}\n{{"prompt"', "t.jsonl, line 2: broken JSON"),
        ("t.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1: broken JSON: the key 'prompt' is given twice"),
        ("t.jsonl", f'{{"prompt": {"1" * 5000}}}', "t.jsonl, line 1: broken JSON: "),
        ("t.jsonl", "[" * 100_000, "begins with '['"),
        ("t.jsonl", '{"a":' * 100_000, "t.jsonl, line 1: broken JSON: nested too deeply"),
        ("t.json", f"{ROW}\n{ROW}", "t.json, line 2: broken JSON: Extra data (column 1); if it has one row a line"),
        ("t.json", ROW, "t.json: a .json file must hold one list of rows, not dict"),
        ("t.csv", "prompt;answer\na;b", "t.csv: its columns are separated by ';', and those of a .csv file by ','"),
        ("t.csv", "prompt\tanswer\na\tb", r"t.csv: its columns are separated by '\t'"),
        ("t.tsv", "prompt,answer\na,b", "t.tsv: its columns are separated by ','"),
        ("t.csv", "prompt,answer,answer\na,b,c", "t.csv: the column 'answer' is there twice"),
        ("t.csv", "prompt,answer\na,b,c", "t.csv, row 1 (line 2): 3 cells below 2 names of columns"),
        ("t.csv", "prompt,answer\na\n", "t.csv, row 1 (line 2): 1 cells below 2 names"),
        ("t.csv", 'prompt,answer\n"a,b\n', "t.csv, line 2: broken .csv: unexpected end of data"),
        ("t.csv", 'prompt,answer\n"a"b,c\n', "t.csv, line 2: broken .csv"),
        ("t.csv", "prompt,answer\nä".encode("latin-1"), "t.csv: not UTF-8 text (byte 14)"),
        ("t.tsv", 'prompt\tanswer\n"Hi" he\tyes\n', "'tab' expected after '\"'; a cell that holds a quotation mark"),
        ("t.parquet", twice_named(), "t.parquet: the column 'answer' is there twice"),
        ("t.parquet", b"PAR1 no more", "t.parquet: not a whole Parquet file: "),
        ("t.parquet", as_parquet([{"prompt": "a", "answer": "b"}])[:-9], "t.parquet: not a whole Parquet file: "),
        ("t.jsonl.gz", ROW, "t.jsonl.gz: not a whole gzip file: "),
        ("t.jsonl.gz", gzip.compress(ROW.encode(), mtime=0)[:-6], "t.jsonl.gz: not a whole gzip file: "),
        ("t.xlsx", b"PK", "t.xlsx: rows are read from .json, .jsonl, .csv, .tsv, .parquet, each also"),
    ],
)  # fmt: skip
def test_a_fault_is_named_in_one_line(name: str, data: bytes | str, told: str) -> None:
    said = fault(data, name)
    assert told in said
    assert "\n" not in said
    assert len(said) <= 600


def test_rows_behind_a_broken_line_are_read() -> None:
    rows = list(rows_of_bytes(f"{ROW}\n{{\n{ROW},\n{ROW}".encode(), "t.jsonl"))
    assert [isinstance(row, InputError) for _, row in rows] == [False, True, True, False]


def test_a_file_of_the_hub_may_hold_one_row_a_line_under_either_name() -> None:
    for data in (f"\ufeff\n[{ROW}]", f"\ufeff\n{ROW}\n"):
        found = [row for _, row in rows_of_bytes(data.encode(), "hf://x/train.json", either_json=True)]
        assert found == [json.loads(ROW)]


def test_a_folder_or_a_file_that_is_not_readable_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.json: cannot be read: "):
        list(rows_of_file(tmp_path / "t.json"))
