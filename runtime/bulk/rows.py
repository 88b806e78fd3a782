"""Reads the rows of a file: CSV or JSON lines."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bulk import Format
from schemas.faults import Fault, Invalid
from topics import json
from topics.envelope import InvalidMessage

_SUFFIXES = {".csv": Format.csv, ".jsonl": Format.jsonl, ".ndjson": Format.jsonl}
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_FLAGS = {"true": True, "false": False}


class UnusableFile(Exception):
    """No row of the file can be imported. The message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row by the JSON names of its fields. `line` is that of its first character, from 1."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not applied, with the status and the errors that the HTTP API would answer. `fields` is None if the
    row cannot be read."""

    line: int
    status: int
    errors: Sequence[Any]
    fields: dict[str, Any] | None

    @classmethod
    def by(cls, fault: Fault, line: int, fields: dict[str, Any] | None = None) -> "Refusal":
        return cls(line, fault.status, [entry.model_dump() for entry in fault.entries], fields)


def format_of(file: Path) -> Format:
    """The format by the suffix of the file's name. Raises UnusableFile."""
    try:
        return _SUFFIXES[file.suffix.lower()]
    except KeyError:
        raise UnusableFile(f"{file} must have one of the suffixes {', '.join(_SUFFIXES)}.") from None


def read(file: Path, types: Mapping[str, type]) -> Iterator[Row | Refusal]:
    """The rows of a file in order, with a refusal for each that cannot be read. `types` are the plain types of the
    fields. A null and an empty cell count as a field that was left out. Raises UnusableFile, OSError."""
    return _read_csv(file, types) if format_of(file) is Format.csv else _read_json_lines(file)


def _read_json_lines(file: Path) -> Iterator[Row | Refusal]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text:
                yield _parse(number, text)


def _parse(number: int, text: bytes) -> Row | Refusal:
    try:
        fields = json.read(text)
    except InvalidMessage as error:
        return Refusal.by(Invalid(error.code, f"The line is not JSON: {error}"), number)
    if not isinstance(fields, dict):
        return Refusal.by(Invalid("not_an_object", "The line must be a JSON object."), number)
    return Row(number, {name: value for name, value in fields.items() if value is not None})


def _read_csv(file: Path, types: Mapping[str, type]) -> Iterator[Row | Refusal]:
    # surrogateescape: a cell that is not UTF-8 refuses its row, not the file.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        header = text.readline()
        # Spreadsheets in countries with a decimal comma write semicolons.
        delimiter = "," if "," in header or ";" not in header else ";"
        columns = _columns(file, header, delimiter)
        _check_columns(file, columns, types)
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 2
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Refusal.by(Invalid("not_csv", f"The row is not CSV: {error}."), line)
                continue
            if cells:
                yield _row_of(line, columns, cells, types)


def _columns(file: Path, header: str, delimiter: str) -> list[str]:
    """Raises UnusableFile."""
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as error:
        raise UnusableFile(f"{file} has a first line that is not CSV: {error}.") from None


def _check_columns(file: Path, columns: Sequence[str], types: Mapping[str, type]) -> None:
    """Raises UnusableFile."""
    if not columns:
        raise UnusableFile(f"{file} is empty. Its first line must have the names of the columns.")
    if unknown := [name for name in columns if name not in types]:
        raise UnusableFile(f"{file} has unknown columns: {', '.join(unknown)}. The columns are: {', '.join(types)}.")
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise UnusableFile(f"{file} has several columns with the same name: {', '.join(repeated)}.")


def _row_of(line: int, columns: Sequence[str], cells: Sequence[str], types: Mapping[str, type]) -> Row | Refusal:
    if len(cells) != len(columns):
        message = f"The row has {len(cells)} cells, the first line of the file {len(columns)}."
        return Refusal.by(Invalid("wrong_cell_count", message), line)
    if not all(map(_is_utf8, cells)):
        return Refusal.by(Invalid("not_utf8", "The row must be UTF-8."), line)
    return Row(line, {name: _value(cell, types[name]) for name, cell in zip(columns, cells, strict=True) if cell})


def _is_utf8(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(cell: str, field_type: type) -> Any:
    """The JSON value of a cell. Text that is no value of the type stays text, and validation reports it."""
    if field_type is bool:
        return _FLAGS.get(cell.lower(), cell)
    if field_type is int and _INTEGER.fullmatch(cell):
        return int(cell)
    if field_type in (list, dict):
        with suppress(InvalidMessage):
            return json.read(cell.encode())
    return cell


def as_json(refusal: Refusal) -> bytes:
    """A line of the report. `row` can be corrected and imported as a line of JSON lines."""
    report = {"line": refusal.line, "status": refusal.status, "errors": refusal.errors, "row": refusal.fields}
    return json.write(json.printable(report)) + b"\n"
