"""The rows of one file: JSON, JSON Lines, CSV, TSV or Parquet, as they are or packed by gzip. Strings stay strings.

No library guesses types here: one that does makes a date of "2024-01-05" and a number of "0228".
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from seekr.errors import InputError, first_line

NumberedRow = tuple[str, Any]
"""Where a row stands, for messages; the row, or the InputError that says why it cannot be read."""


def format_of(name: str | Path) -> str | None:
    """The ending that says how a file is read, such as ".jsonl" of "train.jsonl.gz"; None where nothing reads it."""
    path = PurePath(str(name).lower())
    suffix = PurePath(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in _READERS else None


def stem_of(name: str | Path) -> str:
    """The name of a file without the endings that say how it is read: "train" of "data/train.jsonl.gz"."""
    path = PurePath(name)
    return PurePath(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def rows_of_file(path: Path) -> Iterator[NumberedRow]:
    """Every row of a file. Raises InputError where the file as a whole cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return rows_of_bytes(data, str(path))


def rows_of_bytes(data: bytes, name: str, *, either_json: bool = False) -> Iterator[NumberedRow]:
    """Every row of a file's content; `name` is that of the file, whose ending says how it is read.

    `either_json`: a .json file may hold one row a line too, as files of the hub do.
    """
    suffix = format_of(name)
    if suffix is None:
        raise InputError(f"{name}: rows are read from {', '.join(FORMATS)}, each also with .gz after it; save it so")
    if name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name}: not a whole gzip file: {error}; pack it again, or give it unpacked") from None
    if either_json and suffix == ".json" and not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        suffix = ".jsonl"
    return _READERS[suffix](data, name)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _json_list(data: bytes, name: str) -> Iterator[NumberedRow]:
    rows = _parsed(_text(data, name), name)
    if isinstance(rows, InputError):
        raise rows
    if not isinstance(rows, list):
        raise InputError(f"{name}: a .json file must hold one list of rows, not {type(rows).__name__}")
    return ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def _json_lines(data: bytes, name: str) -> Iterator[NumberedRow]:
    text = _text(data, name)
    row = position = 0
    # Not splitlines(): JSON strings may hold line separators of Unicode as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row += 1
            value = _parsed(line, name, number)
            if isinstance(value, InputError) or (row == 1 and isinstance(value, list)):
                _check_lines(text, position, name, number)
                value = _trailing_comma(line, name, number) or value
            yield f"{name}, row {row} (line {number})", value
        position += len(line) + 1


def _check_lines(text: str, position: int, name: str, number: int) -> None:
    """Raises InputError where what begins at this line is a list of rows, or a row over several lines."""
    if text.lstrip().startswith("["):
        raise InputError(f"{name}: begins with '[', so it is one list of rows and not one row a line; name it .json")
    try:
        _, end = json.JSONDecoder().raw_decode(text, position + len(text[position:]) - len(text[position:].lstrip()))
    except (ValueError, RecursionError):
        return
    last = number + text.count("\n", position, end)
    if last > number:
        raise InputError(
            f"{name}, lines {number} to {last}: one row goes over several lines (pretty-printed JSON); write every row "
            "on a line of its own, or all of them as one list in a .json file"
        )


def _trailing_comma(line: str, name: str, number: int) -> InputError | None:
    bare = line.rstrip()
    if not bare.endswith(",") or isinstance(_parsed(bare[:-1], name), InputError):
        return None
    return InputError(f"{name}, line {number}: a comma follows the row; one row a line needs none, remove it")


def _parsed(text: str, name: str, line: int = 1) -> Any:
    """The value of a text that begins in this line of the file, or an InputError with the line of the mistake."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"{name}, line {line + error.lineno - 1}"
        listed = error.msg == "Extra data" and format_of(name) == ".json"
        hint = "; if it has one row a line, name it .jsonl" if listed else ""
        return InputError(f"{where}: broken JSON: {error.msg} (column {error.colno}){hint}")
    except RecursionError:
        return InputError(f"{name}, line {line}: broken JSON: nested too deeply")
    except ValueError as error:  # a key that comes twice; a number of thousands of digits
        return InputError(f"{name}, line {line}: broken JSON: {str(error)[:120]}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is given twice in one object")
    return found


def _separated(data: bytes, name: str, *, separator: str) -> Iterator[NumberedRow]:
    """Rows of cells below a line of names. An empty cell is an empty string in the columns that a prompt or an answer
    is read from, and elsewhere a key that the row does not have. What has to be a list is read from its JSON.
    """
    lines = _cells(_text(data, name), name, separator)
    if not lines:
        return
    names = [cell.strip() for cell in lines[0][1]]
    _check_columns(names, name)
    other = next((mark for mark in ";\t,|" if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InputError(
            f"{name}: its columns are separated by {other!r}, and those of a {format_of(name)} file by {separator!r}; "
            "save it so"
        )
    for row, (line, cells) in enumerate(lines[1:], start=1):
        where = f"{name}, row {row} (line {line})"
        if len(cells) != len(names):
            yield (
                where,
                InputError(
                    f"{where}: {len(cells)} cells below {len(names)} names of columns; a cell that holds {separator!r} "
                    "or a line break stands in quotation marks"
                ),
            )
        else:
            found = zip(names, cells, strict=True)
            yield where, {key: _value(key, cell) for key, cell in found if cell or key in _TEXTS}


_TEXTS = ("prompt", "answer", "completion", "output")
_LISTS = ("messages", "conversations", "references")


def _value(key: str, cell: str) -> Any:
    """A cell as it is, or the list of which it is the JSON: of turns, or of several right answers, which are texts."""
    found = _parsed(cell, "") if key in _LISTS and cell.lstrip().startswith("[") else cell
    if key == "references" and isinstance(found, list) and not all(isinstance(item, str) for item in found):
        return cell
    return found if isinstance(found, list) else cell


def _check_columns(names: list[str], name: str) -> None:
    for key in names:
        if key and names.count(key) > 1:
            raise InputError(f"{name}: the column {key[:40]!r} is there twice; give every column a name of its own")


def _cells(text: str, name: str, separator: str) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    limit = csv.field_size_limit(max(len(text), 1))  # Python's own is for cells of unknown files
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        reason = str(error).replace("\t", "tab")
        raise InputError(
            f"{name}, line {reader.line_num}: broken {format_of(name)}: {reason}; a cell that holds a quotation mark "
            "stands in such, with each of its own doubled"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _parquet(data: bytes, name: str) -> Iterator[NumberedRow]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    row = 0
    try:
        file = ParquetFile(pyarrow.BufferReader(data))
        _check_columns(file.schema_arrow.names, name)
        for column in file.schema_arrow:
            _check_structs(column.type, column.name, name)
        for batch in file.iter_batches():
            for value in _values(batch, name):
                row += 1
                yield f"{name}, row {row}", value
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name}: not a whole Parquet file: {first_line(error)}") from None


def _check_structs(kind: Any, column: str, name: str) -> None:
    """Raises InputError where an object in a column, at any depth of the type `kind`, has a key twice."""
    parts = [kind.field(place) for place in range(kind.num_fields)]
    keys = [part.name for part in parts]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise InputError(
            f"{name}: the key {twice[:40]!r} is given twice in the objects of the column {column[:40]!r}; give every "
            "key a name of its own"
        )
    for part in parts:
        _check_structs(part.type, column, name)


def _values(batch: Any, name: str) -> list[Any]:
    """The rows of a part of a Parquet file. Raises InputError, naming the column that no values can be made of."""
    try:
        return list(batch.to_pylist())
    except Exception:  # of time zones, dates and texts that Python does not know, each in a way of its own
        for key, cells in zip(batch.schema.names, batch.columns, strict=True):
            try:
                cells.to_pylist()
            except Exception as error:
                what = (
                    "text that is not UTF-8"
                    if isinstance(error, UnicodeError)
                    else f"what is no {cells.type} in Python"
                )
                raise InputError(
                    f"{name}: the column {key[:40]!r} holds {what[:120]}; save it as text (UTF-8), or leave it out"
                ) from None
        raise


_READERS: dict[str, Callable[[bytes, str], Iterator[NumberedRow]]] = {
    ".json": _json_list,
    ".jsonl": _json_lines,
    ".csv": partial(_separated, separator=","),
    ".tsv": partial(_separated, separator="\t"),
    ".parquet": _parquet,
}

FORMATS = tuple(_READERS)
"""The endings of files that rows are read from."""
